// Package orbit is OrbitDB in Go: databases that many peers write to and that
// end up the same everywhere. Its blocks, signatures and addresses are those of
// @orbitdb/core 3 and 4, byte for byte. It needs a place to keep things and a
// keystore; it knows nothing of kubo.
//
// # Beginning
//
// An [Orbit] is the databases of one identity in one [store.Store]:
//
//	s := store.New(datastore, "/orbitdb")
//	o, err := orbit.New(ctx, orbit.Config{Store: s, Keystore: keystore})
//	db, err := o.Create(ctx, "pieces", orbit.Options{Type: orbit.TypeDocuments})
//	docs, err := db.Documents()
//	hash, err := docs.Put(ctx, map[string]any{"_id": "bwv846", "title": "Prelude"})
//
// Close the Orbit, then the store, then the datastore.
//
// # Addresses
//
// The address of a database, /orbitdb/<hash>, is made of its name, type, access
// controller and meta, so that [Orbit.Create] with the same four opens the same
// database on every peer. [Orbit.Open] opens one by its address. What is opened
// is kept in a catalog ([Orbit.Databases]); opening costs the same however much
// a database holds.
//
// Which field of documents holds their key is not part of the address, as in
// JavaScript: every peer that writes has to say the same ([Options.IndexBy]).
//
// # Types
//
//   - [Documents]: maps, each with its key in one of its fields;
//   - [KeyValue]: values with keys;
//   - [Events]: values one after the other, that stay.
//
// Keys and values are whatever the package value has a [value.Value] for: what
// comes as Go values, JSON or CBOR is encoded as JavaScript would, numbers
// above all.
//
// JavaScript makes databases whose manifest says events though an app keeps
// documents or keys in them. [OpenOptions.Type] opens such a database as what it is.
//
// # Encryption
//
// JavaScript apps may encrypt the values of a database (encryption.data). Its
// entries are verified, kept and sent on like any others, but a plain value would
// break those apps, and is refused with [ErrEncrypted]; see [Database.Encrypted].
// Entries that are encrypted as a whole (encryption.replication) cannot be
// verified, and are never part of a database ([entry.ErrEncrypted]).
//
// # Writing
//
// A write returns once it is on disk, synced. It costs the same in a database
// of a hundred entries and of a million, and many at once share a sync. The
// *Many methods write an entry for each item, hundreds to a transaction. An
// entry may have [entry.MaxSize] bytes, the most that JavaScript peers can be
// sent; a larger one is refused. While too little of the disk is free (package
// space), every write is refused before it begins; reading and dropping go on.
//
// # Reading
//
// Get reads one key by an index. The loops read page by page, the newest first
// but for All, and cost nothing for what they pass by. They may be
// left at any time and may contain writes: items that are written meanwhile are
// seen as they were, or not, but none twice. [Database.Updates] follows what
// comes, from any point on and without a gap.
//
// # Who may write
//
// An [AccessController] is a list that is part of the address, or one that its
// admins change ([Access]). An entry counts if its signature is valid and its
// writer is on the list, or somebody on the list has built on it; the documentation
// of AccessController states the rule with each case. See the package entry for
// what makes an entry valid.
//
// # From other peers
//
// [Database.Join] takes entries in any order. Those that come before what they
// were written on top of wait on disk. In the end, replicas that were given the
// same entries, and have the same access list, have the same heads, order and
// state.
//
// # Differences from JavaScript
//
// Where what JavaScript does looks like an oversight, this package does what
// was meant:
//
//   - an entry whose key is not its identity's has no effect: JavaScript lets
//     anybody write in anybody's name;
//   - a copy of an entry with a field added, or encoded otherwise, has no effect: in
//     JavaScript, events are there twice then;
//   - keys such as "constructor" and "__proto__" can be found;
//   - keys that are maps are told apart; in JavaScript they are all one;
//   - keyvalue's Get agrees with the loops on keys such as 42 and "42", of
//     which the newest hides the other; JavaScript's get finds both;
//   - a range with both bounds and an amount has no more than the amount;
//   - where a writer's clock does not rise, every replica here has the same
//     order; see [entry.Rank].
//
// And JavaScript, with its default storage, pins what a value links to: where a
// peer puts a link (a CID) into a value, it does not take the entry before it
// has the linked blocks. Put CIDs as texts for JavaScript to read.
//
// # Cost
//
// What comes from other peers, from files and from admins costs
//
//   - a block of at most [block.MaxSize] bytes that is offered to [Database.Join]: it is
//     hashed and decoded each time, and one signature is checked unless the entry is among
//     the last 4096 that were. Its identity costs two signatures more, unless it is among
//     the last 1024. Its writer is compared with each ID of the access list, and where it
//     is not on the list, its hash with each of the kept entries. Of a list that changes,
//     the log reads its record twice for each entry. What else it costs in the log stands
//     in package oplog. On disk, entries have what [Quotas] leave, in bytes of blocks, and
//     an identity is stored once;
//   - a fixed access list: at most [manifest.MaxSize] bytes, in memory while the
//     database is open;
//   - a change of an access database: a read of each of its keys, and of the entries
//     that came since; a copy of the list, in memory and on disk, that has all IDs which
//     were ever on it and all kept entries; and the entries whose effect changes
//     ([oplog.Log.Revise]). So n changes that add to a list take the square of n. The
//     lists are in memory while the database is open. Only admins make them longer, and
//     nothing but the quotas bounds them;
//   - a grant, a revocation and [AccessController.Repair]: all entries of the access
//     database, in memory until it is done, and the ancestors of at most 16 changes;
//   - a CAR ([Orbit.Import]): it is read as a stream, with a header of at most 1 MiB.
//     Each block is hashed as it is read, and entries are joined when 4 MiB have come. At
//     most 64 MiB of blocks are held that cannot be judged yet, and offered again with
//     each further 4 MiB, to a database and its access database. The quotas hold.
//
// # Damage
//
// Each read checks a block against its hash. A damaged one is reported with its
// hash and its database ([blocks.ErrDamaged]), and the rest can be read. A
// damaged index keeps its database, and no other, from being opened
// ([oplog.ErrDamaged]); [Orbit.Rebuild] makes it anew from the entries.
package orbit
