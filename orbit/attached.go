package orbit

import "github.com/newpieceplease/npp/orbit/block"

// Attached are blocks, by CID, that come together with entries or an address
// and are not stored, such as the identities of the entries' writers. A method
// that accepts them uses them before it asks the source, and stores those that
// the database needs. The caller may add blocks, but not during a call.
type Attached map[string]block.Block
