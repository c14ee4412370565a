// Package companion owns the databases of companions: it decides which ones are
// open, opens, watches and drops them, and knows which are complete.
//
// [Databases] manages the databases of all companions. A [Set] is the databases
// of one companion: its user database, whose address is known from the
// beginning, and the pieces and practice databases that the user database
// names. [Set.Run] opens each of them (database.open) and passes it to the
// [Content] that the library provides.
//
// # Auto-opened and manual databases
//
// A database that is neither here nor being fetched when a companion first
// needs it is auto-opened. It is dropped once no companion uses it any more,
// unless this daemon has written to it. Any other database is manual, and
// stays. So is an auto-opened one for which a person asks later
// ([Databases.MarkManual]).
//
// A manual database is used as it is: one that was closed by hand is not
// replicated. A database that was dropped by hand is not opened again before
// [Set.Retry].
//
// # Complete databases
//
// A database is incomplete until it was in sync with its owner or, while the
// owner does not have it open, with another peer that has entries of it. An
// incomplete user database is not read, because it may name the wrong databases
// or the wrong owner. Incomplete pieces and practice databases are read.
//
// A peer other than the owner may withhold entries. The replica then has a
// state that the database had at some time, until the owner has the database
// open.
//
// Incomplete databases are recorded, and complete ones are not. So the
// databases of a repo from before these records existed count as complete.
//
// # Cost
//
// A Set has one goroutine, and at most two for each open database. It changes
// to other databases every two seconds at most. The databases of a companion
// form a group whose quota is that of one companion (see [orbit.Quotas]).
//
// # What is stored
//
//	brought/<hash>  an auto-opened database: the address of the companion's user database, as JSON
//	partial/<hash>  an incomplete database: "1"
package companion
