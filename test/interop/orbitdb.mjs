// OrbitDB in JavaScript, as apps run it: @orbitdb/core on a Helia node whose libp2p
// listens on loopback and has no bootstrap peers and no peer discovery.
//
//   node orbitdb.mjs [--hide] [4 [<gossipsub package>] | 3]
//
// The number is the version of OrbitDB, 4 by default. With --hide, libp2p announces
// no reachable address, so a disconnected peer does not reconnect by itself.
//
// Each line of stdin and stdout is one value in DAG-JSON, which preserves bytes,
// links and big integers. The first line of output is
// {"ready": {"peerId", "addrs"}}. A line of stdin is a command,
// {"id", "command", …}, see commands; its answer is {"id", "result"} or
// {"id", "error"}. Commands start in order, and run concurrently: a caller that
// wants one to see the effect of another waits for the answer to that. An undefined
// result is omitted. Two more kinds of lines may be printed at any time:
// {"event", "as", "address", …} is an event of a database that syncs, and
// {"unhandled"} is an error that would end an app. The process stops at the end of
// stdin, even if commands still run.
//
// Blocks are in memory, for all identities together. Each identity has an OrbitDB
// of its own, with its other data in ./orbitdb/<name>.

import { createInterface } from 'node:readline'
import { parse, stringify } from '@ipld/dag-json'
import { generateKeyPair } from '@libp2p/crypto/keys'
import { lpStream } from '@libp2p/utils'
import { base58btc } from 'multiformats/bases/base58'
import { CID } from 'multiformats/cid'
import { sha256 } from 'multiformats/hashes/sha2'

const dagCbor = 0x71
const raw = 0x55

const print = (line) => console.log(stringify(line))

for (const event of ['uncaughtException', 'unhandledRejection']) {
  process.on(event, (err) => print({ unhandled: String(err?.stack ?? err) }))
}

const stacks = { 3: './v3/stack.mjs', 4: './stack-4.mjs' }

const hide = process.argv[2] === '--hide'
const [version = '4', ...stackOptions] = process.argv.slice(hide ? 3 : 2)
const stack = await import(stacks[version])
const {
  ComposedStorage, createOrbitDB, Documents, Entry, Events, Identities, IPFSAccessController, IPFSBlockStorage,
  KeyStore, KeyValue, LevelStorage, LRUStorage, MemoryStorage, OrbitDBAccessController, useDatabaseType
} = stack.core

const { ipfs, blockstore } = await stack.start({
  addresses: { listen: ['/ip4/127.0.0.1/tcp/0'], announce: hide ? ['/ip4/127.0.0.1/tcp/1'] : [] },
  // All peers have the same IP address, and share a machine that may be slow.
  connectionManager: { inboundConnectionThreshold: 1000, maxIncomingPendingConnections: 1000 },
  connectionMonitor: { abortConnectionOnPingFailure: false }
}, {
  // Without it, a peer without connections cannot write to a database that syncs.
  allowPublishToZeroTopicPeers: true,
  scoreParams: { IPColocationFactorWeight: 0 }
}, ...stackOptions)
const { libp2p } = ipfs
const { pubsub } = libp2p.services

const parseHash = (hash) => CID.parse(hash, base58btc)

const collect = async (pieces) => {
  const all = []
  for await (const piece of pieces) all.push(piece)
  return all
}

// Returns the bytes of a local block.
const local = (hash) => stack.getBlock(blockstore, parseHash(hash))

const putBlocks = async (blocks = []) => {
  for (const bytes of blocks) {
    await ipfs.blockstore.put(CID.createV1(dagCbor, await sha256.digest(bytes)), bytes)
  }
}

// The OrbitDB of each identity with its open databases by address.
const orbitdbs = new Map()

const orbitdb = (as) => {
  const found = orbitdbs.get(as)
  if (!found) throw new Error(`there is no identity ${as}`)
  return found
}

const database = ({ as, address }) => {
  const db = orbitdb(as).databases.get(address)
  if (!db) throw new Error(`${as} has not opened ${address}`)
  return db
}

const accessControllers = { ipfs: IPFSAccessController, orbitdb: OrbitDBAccessController }

// Returns an index and the set of the hashes in it.
const counted = async (index) => {
  const known = new Set()
  for await (const [hash] of index.iterator()) known.add(hash)
  return {
    known,
    index: {
      ...index,
      put: async (hash, value) => {
        await index.put(hash, value)
        known.add(hash)
      }
    }
  }
}

// The hashes of the entries of each database.
const entries = new WeakMap()

// Returns a database type that registers its databases by address, counts their
// entries and prints their events. It is also the type of the databases that access
// controllers open.
const watched = (Type) => Object.assign((options) => {
  const make = Type(options)
  return async (params) => {
    const { identity, address, directory } = params
    // By default, this is the default index, which cannot be counted.
    const { index, known } = await counted(params.indexStorage ?? await ComposedStorage(
      await LRUStorage({ size: 1000 }), await LevelStorage({ path: `${directory}${address}/log/_index/` })
    ))
    const db = await make({ ...params, indexStorage: index })
    const [as, { databases }] = [...orbitdbs].find(([, { instance }]) => instance.identity === identity)
    entries.set(db, known)
    databases.set(address, db)
    db.events.on('close', () => databases.delete(address))
    db.events.on('join', (peer) => print({ event: 'join', as, address, peer: String(peer) }))
    db.events.on('leave', (peer) => print({ event: 'leave', as, address, peer: String(peer) }))
    db.events.on('error', (err) => print({ event: 'error', as, address, error: String(err?.stack ?? err) }))
    return db
  }
}, { type: Type.type })

for (const Type of [Documents, Events, KeyValue]) useDatabaseType(watched(Type))

// The databases whose updates are printed.
const updating = new WeakSet()

// The storage of a database, in memory. Blocks are stored as by default, but not
// pinned.
const inMemory = async () => ({
  entryStorage: await ComposedStorage(await LRUStorage({ size: 1000 }), await IPFSBlockStorage({ ipfs, pin: false })),
  headsStorage: await MemoryStorage(),
  indexStorage: await MemoryStorage()
})

// Encryption of the values (data) or of whole entries (replication), with a key
// that all peers have. Like real encryption, it cannot decrypt plain data.
const flip = async (bytes) => bytes.map((byte) => byte ^ 0xff)
const encryptions = (layer) => layer ? { [layer]: { encrypt: flip, decrypt: flip } } : undefined

const open = async (as, nameOrAddress, { type, access, meta, indexBy, encryption, memory, updates, sync = false }) => {
  const options = { type, meta, sync, encryption: encryptions(encryption), ...(memory ? await inMemory() : {}) }
  if (access) options.AccessController = accessControllers[access.type]({ write: access.write })
  if (indexBy) options.Database = watched(Documents)({ indexBy })
  const db = await orbitdb(as).instance.open(nameOrAddress, options)
  const { address } = db
  if (updates && !updating.has(db)) {
    updating.add(db)
    db.events.on('update', ({ hash }) => print({ event: 'update', as, address, hash }))
  }
  return { address, access: db.access.address, name: db.name, type: db.type, meta: db.meta }
}

// The answer to a write.
const written = async (hash) => ({ hash, bytes: await local(hash) })

// Puts an item: a document in doc, a key with its value, or an event itself.
const put = (db, item) => {
  switch (db.type) {
    case 'documents': return db.put(item.doc)
    case 'keyvalue': return db.put(item.key, item.value)
    default: return db.add(item)
  }
}

const hashes = async (log, range) => (await collect(log.iterator(range))).map(({ hash }) => hash)

const heads = async (log) => (await log.heads()).map(({ hash }) => hash)

// The received cards, see the command card: {"peer", "card"}.
const cards = []

const peerId = (id) => {
  const found = libp2p.getPeers().find((peer) => String(peer) === id)
  if (!found) throw new Error(`there is no connection to ${id}`)
  return found
}

const commands = {
  // Creates an identity, which other commands name in "as". Its keys are given in
  // hex, or generated with a given type.
  identity: async ({ name, root, signing, rootType, signingType }) => {
    if (orbitdbs.has(name)) throw new Error(`there is an identity ${name} already`)
    const directory = `./orbitdb/${name}`
    const keystore = await KeyStore({ path: `${directory}/keystore` })
    const add = async (id, hex, type) => {
      const privateKey = hex ? Buffer.from(hex, 'hex') : (await generateKeyPair(type)).raw
      await keystore.addKey(id, { privateKey })
    }
    await add(name, root, rootType)
    const id = Buffer.from((await keystore.getKey(name)).publicKey.raw).toString('hex')
    await add(id, signing, signingType)
    const identities = await Identities({ ipfs, keystore })
    const instance = await createOrbitDB({ ipfs, id: name, identities, directory })
    orbitdbs.set(name, { instance, databases: new Map() })
    const { publicKey, hash } = instance.identity
    return { id: instance.identity.id, publicKey, hash }
  },

  'put-blocks': ({ blocks }) => putBlocks(blocks),

  // Puts a file of one block and returns its CID.
  'put-file': async ({ data }) => {
    const cid = CID.createV1(raw, await sha256.digest(data))
    await ipfs.blockstore.put(cid, data)
    return String(cid)
  },

  // Returns local blocks or, with network, blocks from the connected peers.
  'get-blocks': ({ hashes, network }) => Promise.all(hashes.map(async (hash) => (
    network ? stack.getBlock(ipfs.blockstore, parseHash(hash)) : local(hash)
  ))),

  'all-blocks': () => stack.allBlocks(blockstore),

  // With sync, the database is replicated; with memory, nothing of it is on disk;
  // with updates, its later updates are printed.
  create: ({ as, name, ...options }) => open(as, name, options),

  open: ({ as, address, ...options }) => open(as, address, options),

  close: (args) => database(args).close(),

  put: async ({ doc, key, value, ...args }) => written(await put(database(args), { doc, key, value })),

  // Puts one item after another, see put, and returns their hashes.
  'put-many': async ({ items, ...args }) => {
    const db = database(args)
    const all = []
    for (const item of items) all.push(await put(db, item))
    return all
  },

  del: async ({ key, ...args }) => written(await database(args).del(key)),

  add: async ({ value, ...args }) => written(await database(args).add(value)),

  // Stores the blocks, if any, and joins entries one after another.
  join: async ({ heads, blocks, ...args }) => {
    await putBlocks(blocks)
    const { log } = database(args)
    const results = []
    for (const hash of heads) {
      try {
        results.push({ hash, joined: await log.joinEntry(await Entry.decode(await local(hash))) })
      } catch (err) {
        results.push({ hash, error: String(err?.message ?? err) })
      }
    }
    return results
  },

  // Returns the number of entries of the log.
  count: (args) => entries.get(database(args)).size,

  heads: (args) => heads(database(args).log),

  // Returns the hashes of the log, newest first, or those of a range.
  log: ({ as, address, ...range }) => hashes(database({ as, address }).log, range),

  iterate: ({ as, address, ...filters }) => collect(database({ as, address }).iterator(filters)),

  all: (args) => database(args).all(),

  // Returns the whole state for comparisons: it includes the entries of ranges, the
  // values of keys ([] if missing), and the newest items.
  state: async ({ ranges = [], keys = [], newest = 1, ...args }) => {
    const db = database(args)
    return {
      heads: await heads(db.log),
      log: await hashes(db.log),
      all: await db.all(),
      ranges: await Promise.all(ranges.map((range) => hashes(db.log, range))),
      got: await Promise.all(keys.map(async (key) => {
        const found = await db.get(key)
        return found === undefined ? [] : [db.type === 'documents' ? found.value : found]
      })),
      newest: (await collect(db.iterator({ amount: newest }))).map(({ hash }) => hash)
    }
  },

  // Returns {} for a missing value.
  get: async ({ key, hash, ...args }) => {
    const value = await database(args).get(hash ?? key)
    return value === undefined ? {} : { value }
  },

  entry: async ({ hash, ...args }) => {
    if (!await database(args).log.has(hash)) throw new Error(`the log has no entry ${hash}`)
    return local(hash)
  },

  // identity is the ID of an identity.
  grant: ({ capability, identity, ...args }) => database(args).access.grant(capability, identity),

  revoke: ({ capability, identity, ...args }) => database(args).access.revoke(capability, identity),

  capabilities: async (args) => {
    const { access } = database(args)
    if (!access.capabilities) return { write: access.write }
    const all = Object.entries(await access.capabilities())
    return Object.fromEntries(all.map(([capability, ids]) => [capability, [...ids]]))
  },

  connect: async ({ addr }) => {
    await libp2p.dial(stack.multiaddr(addr))
  },

  // Closes the connections to a peer, or to all peers.
  disconnect: async ({ peer }) => {
    const peers = peer === undefined ? libp2p.getPeers() : [peerId(peer)]
    await Promise.all(peers.map((id) => libp2p.hangUp(id)))
  },

  connections: () => libp2p.getConnections().map(({ remotePeer, remoteAddr, direction }) => (
    { peer: String(remotePeer), addr: String(remoteAddr), direction }
  )),

  // Returns the known subscribers of a topic.
  subscribers: ({ topic }) => pubsub.getSubscribers(topic).map(String),

  // Returns the peers to which the message was sent.
  publish: async ({ topic, data }) => {
    const { recipients } = await pubsub.publish(topic, data)
    return recipients.map(String)
  },

  // Opens a stream to a connected peer, sends each frame in one piece, and closes
  // its side unless hold is set. Once the peer closes, returns the received pieces.
  'heads-stream': async ({ peer, protocol, frames = [], hold = false }) => (
    stack.exchange(await libp2p.dialProtocol(peerId(peer), protocol), frames, hold)
  ),

  // Answers a card with a card. This is the handler of the documentation of package
  // card; it also records the cards that it reads.
  card: ({ card }) => libp2p.handle('/npp/card/1.0.0', async (stream, connection) => {
    const lp = lpStream(stream)
    const theirs = JSON.parse(new TextDecoder().decode((await lp.read()).subarray()))
    cards.push({ peer: String(connection.remotePeer), card: theirs })
    await lp.write(new TextEncoder().encode(JSON.stringify(card)))
    await stream.close()
  }, { runOnLimitedConnection: true }),

  cards: () => cards,

  stop: () => input.close()
}

const input = createInterface({ input: process.stdin })

print({ ready: { peerId: String(libp2p.peerId), addrs: libp2p.getMultiaddrs().map(String) } })

const run = async (line) => {
  let id = null
  try {
    const { id: given, command, ...args } = parse(line)
    id = given ?? null
    if (!Object.hasOwn(commands, command)) throw new Error(`there is no command ${command}`)
    const result = await commands[command](args)
    print(result === undefined ? { id } : { id, result })
  } catch (err) {
    print({ id, error: String(err?.stack ?? err) })
  }
}

for await (const line of input) run(line)
for (const { instance } of orbitdbs.values()) await instance.stop()
await ipfs.stop()
process.exit()
