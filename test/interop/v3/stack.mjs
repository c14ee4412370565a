// The packages of @orbitdb/core 3.0.2, for orbitdb.mjs, like ../stack-4.mjs.

import { gossipsub } from '@chainsafe/libp2p-gossipsub'
import { noise } from '@chainsafe/libp2p-noise'
import { yamux } from '@chainsafe/libp2p-yamux'
import { bitswap } from '@helia/block-brokers'
import { Helia } from '@helia/utils'
import { identify } from '@libp2p/identify'
import { tcp } from '@libp2p/tcp'
import { MemoryBlockstore } from 'blockstore-core'
import { MemoryDatastore } from 'datastore-core'
import { createLibp2p } from 'libp2p'

export { multiaddr } from '@multiformats/multiaddr'
export * as core from '@orbitdb/core'

export const start = async (options, pubsubOptions) => {
  const libp2p = await createLibp2p({
    ...options,
    transports: [tcp()],
    connectionEncrypters: [noise()],
    streamMuxers: [yamux()],
    services: { identify: identify(), pubsub: gossipsub(pubsubOptions) }
  })
  const blockstore = new MemoryBlockstore()
  const ipfs = new Helia({ libp2p, blockstore, datastore: new MemoryDatastore(), blockBrokers: [bitswap()] })
  await ipfs.start()
  return { ipfs, blockstore }
}

export const getBlock = async (blockstore, cid) => blockstore.get(cid)

export const allBlocks = async (blockstore) => {
  const all = []
  for await (const { block } of blockstore.getAll()) all.push(block)
  return all
}

export const exchange = async (stream, frames, hold) => {
  const received = []
  const receive = async () => {
    for await (const piece of stream.source) received.push(piece.subarray())
  }
  const outgoing = async function * () {
    yield * frames
    if (hold) await new Promise(() => {})
  }
  const sent = stream.sink(outgoing())
  await (hold ? Promise.race([receive(), sent]) : Promise.all([receive(), sent]))
  return received
}
