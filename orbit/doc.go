// Package orbit implements OrbitDB in Go: databases that many peers write and
// that converge to the same state on each of them. Its blocks, signatures and
// addresses are, byte for byte, those of @orbitdb/core 3 and 4. It depends on
// boxo and go-libp2p, but not on kubo.
//
// # Getting started
//
// An [Orbit] contains the databases of one identity in one [store.Store]. The
// keystore of boxo holds the identity's keys.
//
//	s := store.New(datastore, "/orbitdb")
//	o, err := orbit.New(ctx, orbit.Config{Store: s, Keystore: keystore})
//	db, err := o.Create(ctx, "pieces", orbit.Options{Type: orbit.TypeDocuments})
//	docs, err := db.Documents()
//	hash, err := docs.Put(ctx, map[string]any{"_id": "bwv846", "title": "Prelude"})
//
// Close the Orbit first, then the store, then the datastore. To replicate
// databases with other peers, use package replicate. To let bitswap serve their
// blocks, extend the node's block store with [Overlay].
//
// # Addresses
//
// The address of a database, /orbitdb/<CID>, is derived from its name, type,
// access controller and meta. [Orbit.Create] with the same four opens the same
// database on every peer. [Orbit.Open] opens a database by its address. Each
// opened database is recorded in a catalog ([Orbit.Databases]). The cost of
// opening a database does not depend on its size.
//
// # Many databases
//
// An Orbit may contain a hundred thousand databases. One that is not open costs
// nothing in memory, or about 50 bytes if [Quotas] apply to it. An open one has
// no goroutine, timer or file. The 128 that were used last stay open, and any
// other as long as somebody holds a [Database]; [Orbit.Open] then returns that
// one. A database that nobody holds is let go, and is opened again from the
// store in less than a millisecond. [Orbit.Glance] and [Orbit.Fingerprint] do
// not open it.
//
// The field of documents that contains their key is not part of the address, as
// in JavaScript. All writers of a database must choose the same
// ([Options.IndexBy]).
//
// # Types
//
//   - [Documents]: maps, each with its key in one of its fields
//   - [KeyValue]: values with keys
//   - [Events]: a sequence of values that are never deleted
//
// Keys and values are any data that has a [value.Value]. Go values, JSON and
// CBOR are encoded as JavaScript encodes them, numbers in particular.
//
// JavaScript apps create databases whose manifest says events although they
// contain documents or keys. [OpenOptions.Type] opens such a database as its
// actual type.
//
// # Encryption
//
// JavaScript apps may encrypt the values of a database (encryption.data). Its
// entries are verified, stored and sent like any others, but a plain value
// would break those apps, so it is not written ([ErrEncrypted]); see
// [Database.Encrypted]. Entries that are encrypted as a whole
// (encryption.replication) cannot be verified and are never part of a database
// ([entry.ErrEncrypted]).
//
// # Writing
//
// A write returns when it is synced to disk. It costs the same in a database of
// a hundred entries and of a million, and concurrent writes share a sync. The
// methods whose names end in Many write one entry for each item, hundreds in a
// transaction. An entry has at most [entry.MaxSize] bytes, the most that can be
// sent to JavaScript peers. While the disk is nearly full (package space),
// every write is refused before it begins; reads and drops still work.
//
// # Reading
//
// Get looks up a key in an index. The iterators read page by page, newest first
// except for All, and items that they skip cost nothing. The loop may be left
// at any time and may write to the database: it yields concurrently written
// items in their old or new state or not at all, but never twice.
// [Database.Updates] follows new entries, from any point and without a gap.
//
// # Access
//
// An [AccessController] is an access list that is part of the address, or one
// that its admins change ([Access]). An entry is authorized if its signature is
// valid and its writer is on the access list, or if the entry of such a writer
// descends from it; the documentation of AccessController states the rule and
// its cases. Package entry states what makes an entry valid. Only authorized
// entries affect order, state and heads.
//
// # Joining
//
// [Database.Join] accepts entries from other peers, decoded by [NewCandidates],
// in any order. An entry that arrives before its parents is pending, on disk,
// until they arrive. Replicas with the same entries and the same access list
// have the same heads, order and state.
//
// # Differences from JavaScript
//
// Where the behavior of JavaScript appears to be an oversight, this package
// implements what was intended:
//
//   - An entry whose key is not the key of its identity is invalid. JavaScript
//     lets anybody write in anybody's name.
//   - A copy of an entry with an additional field or another encoding is
//     invalid. In JavaScript, events then appear twice.
//   - Keys such as "constructor" and "__proto__" can be read.
//   - Keys that are maps are distinct. In JavaScript, they are all the same
//     key.
//   - Get of keyvalue agrees with the iterators on keys such as 42 and "42", of
//     which the newest hides the other. JavaScript's get finds both.
//   - A range with both bounds and a limit has at most limit entries.
//   - Where a writer's clock does not rise, every replica has the same order;
//     see [entry.Rank].
//
// With its default storage, JavaScript pins the blocks to which a value links:
// it does not accept an entry whose value contains a link (a CID) before it has
// the linked blocks. For JavaScript readers, write CIDs as texts.
//
// # Cost
//
// Input from peers, files and admins costs the following:
//
//   - A block from a peer has at most [block.MaxSize] bytes. [NewCandidates]
//     hashes and decodes it. Each [Database.Join] verifies one signature,
//     unless the entry is among the last 4096 that were verified. Its identity
//     costs two more signatures unless it is among the last 1024. The writer is
//     compared with each ID of the access list and, if it is not on the list,
//     the entry's CID with each retained entry. For a changeable access list,
//     the log reads its record twice per entry. The documentation of the
//     internal package oplog states the further cost in the log. On disk,
//     [Quotas] bound the bytes of blocks of entries, and an identity is stored
//     once.
//   - A fixed access list has at most 256 KiB, and is in memory while the
//     database is open.
//   - A change of an access database opens all databases of the catalog that it
//     controls, one after the other. For each of them it costs a read of each
//     of its keys and of the entries that arrived since the last one, or of all
//     entries if the controlled database was not open; a copy of the list, in
//     memory and on disk, with all IDs that were ever on it and all retained
//     entries; and the entries whose authorization changes. So n changes that
//     add to a list take time quadratic in n. The lists are in memory while the
//     database is open. Only admins extend them, and nothing but the quotas
//     bounds them.
//   - A grant, a revocation and [AccessController.Repair] hold all entries of
//     the access database in memory, and read the ancestors of at most 16
//     changes.
//   - A CAR ([Orbit.Import]) is read as a stream, with a header of at most 1
//     MiB. Each block is hashed when it is read, and entries are joined after
//     each 4 MiB. At most 64 MiB of blocks that cannot be verified yet are
//     held, and offered again after each further 4 MiB, to the database and its
//     access database. The quotas apply.
//
// # Damage
//
// Each read verifies a block against its CID. For a damaged block, the error
// names its CID and its database ([ErrDamagedBlock]), and all other blocks
// remain readable. A database with a damaged index does not open
// ([ErrDamaged]), which affects no other database. [Orbit.Rebuild] rebuilds the
// index from the entries.
package orbit
