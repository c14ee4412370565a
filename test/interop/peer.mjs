// A js-libp2p peer like the tutorial's app: it subscribes to pubsub topics and
// publishes to those of other peers.
//
//   node peer.mjs <gossipsub package>
//
// It prints one JSON object per line: first {"id", "addr"}, then {"message"} for
// each message that arrives, and {"done"} or {"error"} for each command. A
// command is a JSON object on a line of stdin, see commands. Bytes are in base64.
// It stops at the end of stdin.

import { createInterface } from 'node:readline'
import { noise } from '@chainsafe/libp2p-noise'
import { yamux } from '@chainsafe/libp2p-yamux'
import { identify } from '@libp2p/identify'
import { tcp } from '@libp2p/tcp'
import { multiaddr } from '@multiformats/multiaddr'
import { createLibp2p } from 'libp2p'

const { gossipsub } = await import(process.argv[2])

const libp2p = await createLibp2p({
  addresses: { listen: ['/ip4/127.0.0.1/tcp/0'] },
  transports: [tcp()],
  connectionEncrypters: [noise()],
  streamMuxers: [yamux()],
  services: { identify: identify(), pubsub: gossipsub() }
})
const { pubsub } = libp2p.services

const print = (line) => console.log(JSON.stringify(line))

pubsub.addEventListener('message', ({ detail: m }) => print({
  message: {
    from: m.from.toString(),
    topic: m.topic,
    data: Buffer.from(m.data).toString('base64'),
    seqno: m.sequenceNumber.toString()
  }
}))

// The last published messages in their signed wire form.
let sent = []
const sendRpc = pubsub.sendRpc.bind(pubsub)
pubsub.sendRpc = (peer, rpc) => {
  if (rpc.messages.length > 0) sent = rpc.messages
  return sendRpc(peer, rpc)
}

// Waits for subscribers of a topic with an open stream, and returns them.
const subscribers = async (topic) => {
  for (;;) {
    const ids = pubsub.getSubscribers(topic).map(String).filter((id) => pubsub.streamsOutbound.has(id))
    if (ids.length > 0) return ids
    await new Promise((resolve) => {
      pubsub.addEventListener('subscription-change', resolve, { once: true })
      pubsub.addEventListener('gossipsub:heartbeat', resolve, { once: true })
    })
  }
}

const commands = {
  connect: ({ addr }) => libp2p.dial(multiaddr(addr)),

  disconnect: async () => {
    await Promise.all(libp2p.getPeers().map((id) => libp2p.hangUp(id)))
  },

  subscribe: ({ topic }) => pubsub.subscribe(topic),

  // Publishes all messages at once, without waiting for each other.
  publish: async ({ topic, data }) => {
    await subscribers(topic)
    const results = await Promise.all(data.map((d) => pubsub.publish(topic, Buffer.from(d, 'base64'))))
    const unsent = results.filter(({ recipients }) => recipients.length === 0)
    if (unsent.length > 0) throw new Error(`${unsent.length} of ${data.length} messages were sent to no peer`)
  },

  // Resends the last published message, with the same bytes and signature.
  replay: async () => {
    for (const id of await subscribers(sent[0].topic)) {
      if (!sendRpc(id, { subscriptions: [], messages: sent })) throw new Error(`cannot send to ${id}`)
    }
  }
}

print({ id: libp2p.peerId.toString(), addr: libp2p.getMultiaddrs()[0].toString() })

for await (const line of createInterface({ input: process.stdin })) {
  const { command, ...args } = JSON.parse(line)
  try {
    await commands[command](args)
    print({ done: command })
  } catch (err) {
    print({ error: `${command}: ${err.stack}` })
  }
}
await libp2p.stop()
