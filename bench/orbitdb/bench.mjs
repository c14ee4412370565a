// Measures @orbitdb/core as node.mjs starts it, without peers. The documents have
// about 130 bytes.
//
//   node --expose-gc bench.mjs [--n 1000] [--large] [--only name,...] [--sync] [--dir folder]
//
// --large also measures with 10 000 documents. --sync opens the databases as
// OrbitDB does by default, which also signs a pubsub message for each put. --dir
// is the parent of the temporary directory. It prints one JSON object per line:
//
//   name       the operation, see measures
//   n          number of documents in the database (after the puts, for those)
//   ops        number of operations
//   ms         total duration
//   perSecond  ops / ms
//   p50Us      the median duration of one operation; p99Us: the 99th percentile
//   cpuMs      processor time of all threads of the process
//   rssMiB     resident memory afterwards, after a garbage collection; heapMiB: the heap
//   load       the load average of the last minute: other processes affect ms, and cpuMs less
//
// Each of the processes, see processes, is new; the reads use the files that the
// preceding puts left on disk.

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { loadavg, tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'

const { values: options } = parseArgs({
  options: {
    n: { type: 'string', default: '1000' },
    large: { type: 'boolean', default: false },
    only: { type: 'string' },
    sync: { type: 'boolean', default: false },
    dir: { type: 'string', default: tmpdir() },
    // Internal: the name of a child process.
    process: { type: 'string' }
  }
})

// Reads are slow with many documents; this bounds the duration of one measure.
const patience = 10_000

const processes = {
  start: ['start'],
  write: ['put', 'get-random', 'get-oldest'],
  read: ['open', 'all-first', 'all-again', 'first-row', 'all-rows', 'query', 'get-random-reopened', 'get-oldest-reopened'],
  'write-16': ['put-16']
}

const wanted = (name) => options.only === undefined || options.only.split(',').includes(name)

// lead runs the processes one after the other in a temporary directory, which it
// removes.
const lead = async () => {
  const dir = await mkdtemp(join(options.dir, 'bench-orbitdb-'))
  let child
  for (const signal of ['SIGINT', 'SIGTERM']) {
    process.on(signal, () => {
      process.exitCode = 1
      child?.kill('SIGKILL')
    })
  }
  try {
    for (const n of [Number(options.n), ...(options.large ? [10_000] : [])]) {
      for (const [name, measures] of Object.entries(processes)) {
        // The reads need the files of the first puts.
        const needed = [...measures, ...(name === 'write' ? processes.read : [])]
        if (!needed.some(wanted)) continue
        const args = ['--process', name, '--n', String(n), '--dir', join(dir, String(n))]
        if (options.only) args.push('--only', options.only)
        if (options.sync) args.push('--sync')
        child = spawn(process.execPath, ['--expose-gc', process.argv[1], ...args], { stdio: ['ignore', 'inherit', 'inherit'] })
        const [code, signal] = await once(child, 'exit')
        if (process.exitCode) return
        if (code !== 0) throw new Error(`the process ${name} ended with ${code ?? signal}`)
      }
    }
  } finally {
    await rm(dir, { recursive: true, force: true })
  }
}

const round = (x) => Math.round(x * 10) / 10

// stopwatch starts a measurement and returns the function that ends it.
const stopwatch = () => {
  const start = performance.now()
  const cpu = process.cpuUsage()
  return () => {
    const { user, system } = process.cpuUsage(cpu)
    return { ms: round(performance.now() - start), cpuMs: round((user + system) / 1000) }
  }
}

const report = (name, n, { ms, cpuMs }, times) => {
  globalThis.gc?.()
  const { rss, heapUsed } = process.memoryUsage()
  const line = { name, n, ops: times.length, ms, cpuMs }
  if (times.length > 1) {
    const sorted = times.toSorted((a, b) => a - b)
    line.perSecond = round(times.length * 1000 / ms)
    line.p50Us = Math.round(sorted[Math.floor(sorted.length / 2)] * 1000)
    line.p99Us = Math.round(sorted[Math.floor(sorted.length * 0.99)] * 1000)
  }
  const memory = { rssMiB: round(rss / 2 ** 20), heapMiB: round(heapUsed / 2 ** 20) }
  console.log(JSON.stringify({ ...line, ...memory, load: round(loadavg()[0]) }))
}

// timed runs op(0), op(1), … the given number of times, or until patience is
// over, in the given number of concurrent loops. It reports the measure, if that is
// wanted.
const timed = async (name, n, ops, op, { loops = 1, patience = Infinity } = {}) => {
  const times = []
  const start = performance.now()
  const stop = stopwatch()
  let next = 0
  await Promise.all(Array.from({ length: loops }, async () => {
    while (next < ops && performance.now() - start < patience) {
      const before = performance.now()
      await op(next++)
      times.push(performance.now() - before)
    }
  }))
  if (wanted(name)) report(name, n, stop(), times)
}

const measure = async (name, n, dir) => {
  const started = stopwatch()
  const { document, start } = await import('./node.mjs')
  const { orbitdb, stop } = await start(dir)
  if (name === 'start' && wanted('start')) report('start', 0, started(), [0])

  const open = (name) => orbitdb.open(name, { type: 'documents', sync: options.sync })
  let db
  const put = (i) => db.put(document(i))
  const get = async (i) => {
    if ((await db.get(`doc${i}`))?.value._id !== `doc${i}`) throw new Error(`there is no doc${i}`)
  }
  const gets = async (suffix) => {
    if (wanted('get-random' + suffix)) await timed('get-random' + suffix, n, 100, (i) => get((i * 7919 + 5) % n), { patience })
    if (wanted('get-oldest' + suffix)) await timed('get-oldest' + suffix, n, 20, () => get(0), { patience })
  }
  const all = async () => {
    const { length } = await db.all()
    if (length !== n) throw new Error(`there are ${length} documents, not ${n}`)
  }

  const firstRow = async () => {
    for await (const { value } of db.iterator()) {
      if (value._id !== `doc${n - 1}`) throw new Error(`${value._id} is the first`)
      break
    }
  }
  const cellos = async () => {
    const { length } = await db.query(({ instrument }) => instrument === 'cello')
    if (length !== Math.ceil((n - 2) / 5)) throw new Error(`there are ${length} documents for cello`)
  }

  switch (name) {
    case 'write':
      db = await open('sequential')
      await timed('put', n, n, put)
      await gets('')
      break
    case 'read':
      await timed('open', n, 1, async () => { db = await open('sequential') })
      if (wanted('all-first')) await timed('all-first', n, 1, all)
      if (wanted('all-again')) await timed('all-again', n, 1, all)
      if (wanted('first-row')) await timed('first-row', n, 20, firstRow)
      if (wanted('all-rows')) await timed('all-rows', n, 3, all)
      if (wanted('query')) await timed('query', n, 3, cellos)
      await gets('-reopened')
      break
    case 'write-16':
      db = await open('concurrent')
      await timed('put-16', n, n, put, { loops: 16 })
  }
  await stop()
}

if (options.process === undefined) await lead()
else await measure(options.process, Number(options.n), options.dir)
