// A dashboard: queues a command and watches it until it is acknowledged. What it sees, it prints, one JSON
// object a line: {queued: row}, {watching: command_id}, {status, retry_count}, and last {done: true}.
import { createClient } from '@supabase/supabase-js'
import WebSocket from 'ws'

const { SUPABASE_URL, SUPABASE_ANON_KEY, USER_TOKEN, USER_ID, DEVICE_ID } = process.env
const say = (what) => console.log(JSON.stringify(what))

const supabase = createClient(SUPABASE_URL, SUPABASE_ANON_KEY, {
  accessToken: async () => USER_TOKEN,
  realtime: { transport: WebSocket }, // Node has none of its own before version 22
})

const { data, error } = await supabase
  .from('device_commands')
  .insert({
    device_id: DEVICE_ID,
    command_type: 'capture_image',
    command_payload: { capture_image: true },
    status: 'pending',
    created_by_user_id: USER_ID,
  })
  .select()
  .single()
if (error) throw new Error(JSON.stringify(error))
say({ queued: data })

const commandId = data.command_id
const subscription = supabase
  .channel(`command-${commandId}`)
  .on(
    'postgres_changes',
    {
      event: 'UPDATE',
      schema: 'public',
      table: 'device_commands',
      filter: `command_id=eq.${commandId}`,
    },
    async (payload) => {
      say({ status: payload.new.status, retry_count: payload.new.retry_count, old: payload.old })
      if (payload.new.status === 'acknowledged') {
        await supabase.removeChannel(subscription)
        say({ done: true })
        process.exit() // the client's timers would keep Node for another ten seconds
      }
    },
  )
  .on('system', {}, (note) => {
    if (note.status === 'ok') say({ watching: commandId })
    else throw new Error(JSON.stringify(note))
  })
  .subscribe()
