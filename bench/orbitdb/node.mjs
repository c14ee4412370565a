// The measured node: @orbitdb/core with its default storage, as in a Node.js app,
// on a Helia node with its blocks and pins in LevelDB on disk. It has no bootstrap
// peers and no peer discovery.

import { join } from 'node:path'

import { noise } from '@chainsafe/libp2p-noise'
import { yamux } from '@chainsafe/libp2p-yamux'
import { bitswap } from '@helia/block-brokers'
import { gossipsub } from '@libp2p/gossipsub'
import { identify } from '@libp2p/identify'
import { tcp } from '@libp2p/tcp'
import { createOrbitDB } from '@orbitdb/core'
import { LevelBlockstore } from 'blockstore-level'
import { LevelDatastore } from 'datastore-level'
import { createHelia } from 'helia'
import { createLibp2p } from 'libp2p'

const instruments = ['piano', 'violin', 'cello', 'flute', 'organ']

// Returns the i-th document, of about 130 bytes.
export const document = (i) => ({
  _id: `doc${i}`,
  title: `Sonata no. ${i % 97} in ${'ABCDEFG'[i % 7]} minor, opus ${i}`,
  composer: `Composer of the ${i % 400}th`,
  instrument: instruments[i % instruments.length],
  year: 1600 + i % 400
})

// Starts libp2p, Helia and OrbitDB in a directory.
export const start = async (dir) => {
  const libp2p = await createLibp2p({
    addresses: { listen: ['/ip4/127.0.0.1/tcp/0'] },
    transports: [tcp()],
    connectionEncrypters: [noise()],
    streamMuxers: [yamux()],
    // A busy peer does not answer pings.
    connectionMonitor: { abortConnectionOnPingFailure: false },
    services: { identify: identify(), pubsub: gossipsub({ allowPublishToZeroTopicPeers: true }) }
  })
  const blockstore = new LevelBlockstore(join(dir, 'blocks'))
  const datastore = new LevelDatastore(join(dir, 'data'))
  await Promise.all([blockstore.open(), datastore.open()])
  const ipfs = await createHelia({ libp2p, blockstore, datastore, blockBrokers: [bitswap()], routers: [] })
  const orbitdb = await createOrbitDB({ ipfs, id: 'bench', directory: join(dir, 'orbitdb') })
  return {
    libp2p,
    orbitdb,
    stop: async () => {
      await orbitdb.stop()
      await ipfs.stop()
      await Promise.all([blockstore.close(), datastore.close()])
    }
  }
}
