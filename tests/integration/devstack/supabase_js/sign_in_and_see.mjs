// A dashboard: signs in with a password, and shows the pictures of the company by signed addresses. What it
// sees, it prints as one JSON object.
import { createClient } from '@supabase/supabase-js'
import WebSocket from 'ws'

const { SUPABASE_URL, SUPABASE_ANON_KEY, SUPABASE_SERVICE_ROLE_KEY, EMAIL, PASSWORD, PICTURE, OTHER } =
  process.env
const realtime = { transport: WebSocket } // Node has none of its own before version 22
const auth = { persistSession: false, autoRefreshToken: false }

const worker = createClient(SUPABASE_URL, SUPABASE_SERVICE_ROLE_KEY, { auth, realtime })
const dashboard = createClient(SUPABASE_URL, SUPABASE_ANON_KEY, { auth, realtime })
const images = (client) => client.storage.from('device-images')
const take = ({ data, error }) => {
  if (error) throw error
  return data
}
const hex = async (blob) => Buffer.from(await blob.arrayBuffer()).toString('hex')

const bytes = Buffer.from('ffd80d0a2d2d00ffd9', 'hex')
const contentType = 'image/jpeg'
take(await images(worker).upload(PICTURE, new Blob([bytes], { type: contentType }), { contentType })) // a form
take(await images(worker).upload(OTHER, bytes, { contentType })) // a body
const taken = await images(worker).upload(PICTURE, bytes, { contentType })
take(await images(worker).update(PICTURE, bytes, { contentType }))

const before = await images(dashboard).download(PICTURE)
const wrong = await dashboard.auth.signInWithPassword({ email: EMAIL, password: 'something else' })
const session = take(await dashboard.auth.signInWithPassword({ email: EMAIL, password: PASSWORD })).session
const downloaded = take(await images(dashboard).download(PICTURE))
const address = take(await images(dashboard).createSignedUrl(PICTURE, 60)).signedUrl
const opened = await fetch(address)
const addresses = take(await images(dashboard).createSignedUrls([PICTURE, OTHER], 60))
const refused = await images(dashboard).upload(PICTURE + '.jpg', bytes, { contentType })
const folder = PICTURE.split('/').slice(0, -1).join('/')
const seen = {
  taken: [taken.error.status, taken.error.statusCode, taken.error.message],
  before: before.error.constructor.name,
  wrong: [wrong.error.status, wrong.error.code],
  user: take(await dashboard.auth.getUser()).user.email,
  companies: take(await dashboard.from('companies').select('name')),
  downloaded: await hex(downloaded),
  opened: [opened.status, opened.headers.get('content-type'), await hex(await opened.blob())],
  addresses: addresses.map(({ path, error }) => [path, error]),
  listed: take(await images(dashboard).list(folder)).map(({ name }) => name),
  exists: [(await images(dashboard).exists(PICTURE)).data, (await images(dashboard).exists(OTHER)).data],
  info: take(await images(dashboard).info(PICTURE)).contentType,
  refused: [refused.error.status, refused.error.statusCode, refused.error.message],
}
const refreshed = take(await dashboard.auth.refreshSession()).session
seen.refreshed = refreshed.refresh_token !== session.refresh_token && refreshed.user.email === EMAIL
seen.out = (await dashboard.auth.signOut()).error
seen.after = (await dashboard.auth.setSession(refreshed)).error?.name ?? null
console.log(JSON.stringify(seen))
process.exit() // the clients' timers would keep Node
