// What @orbitdb/core 4.0.0 runs on, for orbitdb.mjs.

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

// A Helia node, and the store of the blocks that it has.
export const start = async (options, pubsubOptions, gossipsubPackage = 'gossipsub-15-0-23') => {
  const { gossipsub } = await import(gossipsubPackage)
  const libp2p = await createLibp2p({
    ...options,
    transports: [tcp()],
    connectionEncrypters: [noise()],
    streamMuxers: [yamux()],
    services: { identify: identify(), pubsub: gossipsub(pubsubOptions) }
  })
  const blockstore = new MemoryBlockstore()
  // What createHelia of the package helia makes, without the transports that it brings along.
  const ipfs = new Helia({ libp2p, blockstore, datastore: new MemoryDatastore(), blockBrokers: [bitswap()] })
  await ipfs.start()
  return { ipfs, blockstore }
}

const collect = async (pieces) => {
  const all = []
  for await (const piece of pieces) all.push(piece)
  return all
}

export const getBlock = async (blockstore, cid) => Buffer.concat(await collect(blockstore.get(cid)))

export const allBlocks = async (blockstore) => {
  const all = []
  for await (const { bytes } of blockstore.getAll()) all.push(Buffer.concat(await collect(bytes)))
  return all
}

// Sends frames, ends unless it holds, and returns what comes, to its end. The
// iterator of a stream misses an end that came before it, if this side does not end.
export const exchange = async (stream, frames, hold) => {
  const received = []
  const receive = new Promise((resolve, reject) => {
    stream.addEventListener('message', ({ data }) => received.push(data.subarray()))
    stream.addEventListener('end', resolve)
    stream.addEventListener('close', ({ error }) => error ? reject(error) : resolve())
    if (stream.readableEnded) resolve()
  })
  const send = async () => {
    for (const frame of frames) {
      if (!stream.send(frame)) await stream.onDrain()
    }
    if (!hold) await stream.close()
  }
  await Promise.all([receive, send()])
  return received
}
