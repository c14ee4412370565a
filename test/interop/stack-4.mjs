// The packages of @orbitdb/core 4.0.0, for orbitdb.mjs.

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

// Starts a Helia node, and returns it with its block store.
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
  // Like createHelia of package helia, without the transports that it adds.
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

// Sends frames, closes its side unless hold is set, and returns the received pieces
// up to the end. It uses no iterator, because the iterator of a stream misses an
// earlier end if this side stays open.
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
