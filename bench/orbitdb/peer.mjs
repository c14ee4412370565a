// A peer that replicates databases, see node.mjs, and runs commands.
//
//   node --expose-gc peer.mjs <directory>
//
// Each line of stdin and stdout is JSON. It prints {"addr"} first. A line of stdin
// is a command, {"command", …}, see commands; it is answered by {"result"} or
// {"error"} before the next one runs. {"hash", "at"} reports that a followed
// database has received an entry and all its ancestors. Times are in nanoseconds of
// the machine's monotonic clock. The peer stops at the end of stdin.

import { createInterface } from 'node:readline'

import { multiaddr } from '@multiformats/multiaddr'
import { IPFSAccessController } from '@orbitdb/core'

import { document, start } from './node.mjs'

const print = (line) => console.log(JSON.stringify(line))

const now = () => Number(process.hrtime.bigint())

const { libp2p, orbitdb, stop } = await start(process.argv[2])
const databases = new Map()

const commands = {
  clock: now,

  // Creates or opens a database of documents that anybody may write.
  open: async ({ name }) => {
    const AccessController = IPFSAccessController({ write: ['*'] })
    databases.set(name, await orbitdb.open(name, { type: 'documents', AccessController }))
  },

  follow: ({ name }) => {
    databases.get(name).events.on('update', ({ hash }) => {
      const at = now()
      print({ hash, at })
    })
  },

  put: async ({ name, i }) => {
    const at = now()
    const hash = await databases.get(name).put(document(i))
    return { hash, at, took: now() - at }
  },

  // Puts n documents and returns the hash of the last entry.
  fill: async ({ name, n }) => {
    let hash
    for (let i = 0; i < n; i++) hash = await databases.get(name).put(document(i))
    return hash
  },

  // Returns the number of entries.
  count: async ({ name }) => {
    let n = 0
    for await (const _ of databases.get(name).log.iterator()) n++
    return n
  },

  connect: async ({ addr }) => {
    await libp2p.dial(multiaddr(addr))
  },

  // Returns the multiaddrs of the connected peers.
  connections: () => libp2p.getConnections().map(({ remoteAddr }) => String(remoteAddr)),

  gc: () => {
    for (let i = 0; i < 2; i++) globalThis.gc()
  }
}

print({ addr: String(libp2p.getMultiaddrs()[0]) })

const input = createInterface({ input: process.stdin })

for await (const line of input) {
  const { command, ...args } = JSON.parse(line)
  try {
    print({ result: await commands[command](args) ?? null })
  } catch (err) {
    print({ error: String(err?.stack ?? err) })
  }
}
await stop()
process.exit()
