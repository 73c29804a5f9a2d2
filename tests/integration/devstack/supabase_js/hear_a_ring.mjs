// A back end and a dashboard: both ask for the workers' private topic. What they hear, they print, one JSON object
// a line: {refused: reason}, {joined: topic}, {heard: message}, and last {done: true}.
import { createClient } from '@supabase/supabase-js'
import WebSocket from 'ws'

const { SUPABASE_URL, SUPABASE_ANON_KEY, SUPABASE_SERVICE_ROLE_KEY, USER_TOKEN } = process.env
const TOPIC = 'mqtt-service:commands'
const say = (what) => console.log(JSON.stringify(what))
const realtime = { transport: WebSocket } // Node has none of its own before version 22
const config = { private: true }

const dashboard = createClient(SUPABASE_URL, SUPABASE_ANON_KEY, { accessToken: async () => USER_TOKEN, realtime })
const backEnd = createClient(SUPABASE_URL, SUPABASE_SERVICE_ROLE_KEY, {
  auth: { persistSession: false, autoRefreshToken: false },
  realtime,
})

await new Promise((refused) => {
  const channel = dashboard.channel(TOPIC, { config }).subscribe(async (status, error) => {
    if (status !== 'CHANNEL_ERROR') return
    say({ refused: error.message })
    await dashboard.removeChannel(channel)
    refused()
  })
})

backEnd
  .channel(TOPIC, { config })
  .on('broadcast', { event: 'due' }, (message) => {
    say({ heard: message })
    say({ done: true })
    process.exit() // the clients' timers would keep Node for another ten seconds
  })
  .subscribe((status, error) => {
    if (status === 'SUBSCRIBED') say({ joined: TOPIC })
    else throw new Error(`${status} ${error}`)
  })
