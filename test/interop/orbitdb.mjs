// OrbitDB in JavaScript, as its apps run it: @orbitdb/core on a Helia node whose
// libp2p listens on loopback, knows nobody, and finds nobody by itself.
//
//   node orbitdb.mjs
//
// Each line, both ways, is one value in DAG-JSON, so that bytes, links and big
// integers stay what they are. It prints {"ready": {"peerId", "addrs"}} first. A
// line of stdin is a command, {"id", "command", …}, see commands, and has an
// answer, {"id", "result"} or {"id", "error"}. Commands run one after the other. A
// result that is undefined is left out. Two more lines may come at any time:
// {"event", "as", "address", …} is what happens to a database that syncs, and
// {"unhandled"} is what would have ended an app. It stops at the end of stdin.
//
// Blocks are in memory, for all identities together. Each identity has an
// OrbitDB of its own, the rest of which is in ./orbitdb/<name>.

import { createInterface } from 'node:readline'
import { noise } from '@chainsafe/libp2p-noise'
import { yamux } from '@chainsafe/libp2p-yamux'
import { bitswap } from '@helia/block-brokers'
import { Helia } from '@helia/utils'
import { parse, stringify } from '@ipld/dag-json'
import { generateKeyPair } from '@libp2p/crypto/keys'
import { identify } from '@libp2p/identify'
import { tcp } from '@libp2p/tcp'
import { multiaddr } from '@multiformats/multiaddr'
import {
  ComposedStorage, createOrbitDB, Documents, Entry, Identities, IPFSAccessController, IPFSBlockStorage, KeyStore,
  LRUStorage, MemoryStorage, OrbitDBAccessController
} from '@orbitdb/core'
import { MemoryBlockstore } from 'blockstore-core'
import { MemoryDatastore } from 'datastore-core'
import { gossipsub } from 'gossipsub-15-0-23'
import { createLibp2p } from 'libp2p'
import { base58btc } from 'multiformats/bases/base58'
import { CID } from 'multiformats/cid'
import { sha256 } from 'multiformats/hashes/sha2'

const dagCbor = 0x71

const print = (line) => console.log(stringify(line))

for (const event of ['uncaughtException', 'unhandledRejection']) {
  process.on(event, (err) => print({ unhandled: String(err?.stack ?? err) }))
}

const libp2p = await createLibp2p({
  addresses: { listen: ['/ip4/127.0.0.1/tcp/0'] },
  transports: [tcp()],
  connectionEncrypters: [noise()],
  streamMuxers: [yamux()],
  services: {
    identify: identify(),
    // Without it, who is alone cannot write to what syncs.
    pubsub: gossipsub({ allowPublishToZeroTopicPeers: true })
  }
})
const blockstore = new MemoryBlockstore()
// What createHelia of the package helia makes, without the transports that it brings along.
const ipfs = new Helia({ libp2p, blockstore, datastore: new MemoryDatastore(), blockBrokers: [bitswap()] })
await ipfs.start()

const parseHash = (hash) => CID.parse(hash, base58btc)

const collect = async (pieces) => {
  const all = []
  for await (const piece of pieces) all.push(piece)
  return all
}

// The bytes of a block, which must be here.
const local = async (hash) => Buffer.concat(await collect(blockstore.get(parseHash(hash))))

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

// What a database keeps, kept in memory. Blocks go the same way as by default,
// but are not pinned.
const inMemory = async () => ({
  entryStorage: await ComposedStorage(await LRUStorage({ size: 1000 }), await IPFSBlockStorage({ ipfs, pin: false })),
  headsStorage: await MemoryStorage(),
  indexStorage: await MemoryStorage()
})

const open = async (as, nameOrAddress, { type, access, meta, indexBy, memory, sync = false }) => {
  const { instance, databases } = orbitdb(as)
  const options = { type, meta, sync, ...(memory ? await inMemory() : {}) }
  if (access) options.AccessController = accessControllers[access.type]({ write: access.write })
  if (indexBy) options.Database = Documents({ indexBy })
  const db = await instance.open(nameOrAddress, options)
  const address = String(db.address)
  if (databases.get(address) !== db) {
    databases.set(address, db)
    db.events.on('close', () => databases.delete(address))
    db.events.on('join', (peer) => print({ event: 'join', as, address, peer: String(peer) }))
    db.events.on('error', (err) => print({ event: 'error', as, address, error: String(err?.stack ?? err) }))
  }
  return { address, access: db.access.address, name: db.name, type: db.type, meta: db.meta }
}

// What a write answers.
const written = async (hash) => ({ hash, bytes: await local(hash) })

const hashes = async (log, range) => (await collect(log.iterator(range))).map(({ hash }) => hash)

const heads = async (log) => (await log.heads()).map(({ hash }) => hash)

const commands = {
  // An identity, as whom the other commands run (as). Its keys are given in hex,
  // or by a type, to be made.
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

  // The blocks from here, or with network from the peers that this one is connected to.
  'get-blocks': ({ hashes, network }) => Promise.all(hashes.map(async (hash) => (
    network ? Buffer.concat(await collect(ipfs.blockstore.get(parseHash(hash)))) : local(hash)
  ))),

  'all-blocks': async () => {
    const all = []
    for await (const { bytes } of blockstore.getAll()) all.push(Buffer.concat(await collect(bytes)))
    return all
  },

  create: ({ as, name, ...options }) => open(as, name, options),

  open: ({ as, address, ...options }) => open(as, address, options),

  close: (args) => database(args).close(),

  put: async ({ doc, key, value, ...args }) => {
    const db = database(args)
    return written(await (doc === undefined ? db.put(key, value) : db.put(doc)))
  },

  del: async ({ key, ...args }) => written(await database(args).del(key)),

  add: async ({ value, ...args }) => written(await database(args).add(value)),

  // Takes blocks, if any, and joins entries one after the other.
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

  heads: (args) => heads(database(args).log),

  // The hashes of the log, newest first, or those of a range.
  log: ({ as, address, ...range }) => hashes(database({ as, address }).log, range),

  iterate: ({ as, address, ...filters }) => collect(database({ as, address }).iterator(filters)),

  all: (args) => database(args).all(),

  // All that there is to compare, in one answer: also the entries of ranges, what
  // is got by keys, [] for nothing, and so many of the newest items.
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

  // {} where there is nothing.
  get: async ({ key, hash, ...args }) => {
    const value = await database(args).get(hash ?? key)
    return value === undefined ? {} : { value }
  },

  entry: async ({ hash, ...args }) => {
    if (!await database(args).log.has(hash)) throw new Error(`the log has no entry ${hash}`)
    return local(hash)
  },

  // identity is the ID of one.
  grant: ({ capability, identity, ...args }) => database(args).access.grant(capability, identity),

  revoke: ({ capability, identity, ...args }) => database(args).access.revoke(capability, identity),

  capabilities: async (args) => {
    const { access } = database(args)
    if (!access.capabilities) return { write: access.write }
    const all = Object.entries(await access.capabilities())
    return Object.fromEntries(all.map(([capability, ids]) => [capability, [...ids]]))
  },

  connect: async ({ addr }) => {
    await libp2p.dial(multiaddr(addr))
  },

  stop: () => input.close()
}

const input = createInterface({ input: process.stdin })

print({ ready: { peerId: String(libp2p.peerId), addrs: libp2p.getMultiaddrs().map(String) } })

for await (const line of input) {
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
process.stdin.destroy()
for (const { instance } of orbitdbs.values()) await instance.stop()
await ipfs.stop()
