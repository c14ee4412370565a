package replicate

import "strings"

// Operation is an operation that a finding advises. It is also the phrase for
// it unless [Config].Phrase has another one.
type Operation string

// The operations, and what the arguments of their phrases are. A text in place
// of an argument that is not known is in angle brackets.
const (
	TurnOnPubsub    Operation = "turn on pubsub"
	FreeSpace       Operation = "free disk space"
	RaiseQuota      Operation = "raise the quota, or drop databases that are not needed"
	OpenDatabase    Operation = "open"           // address of the database
	OpenAs          Operation = "open as"        // address of the database, its possible types if they are known
	CloseDatabase   Operation = "close"          // address of the database
	RebuildDatabase Operation = "rebuild"        // address of the database
	CompareDeeply   Operation = "examine deeply" // address of the database
	Grant           Operation = "grant"          // address of the database, ID of the identity
	WritePlain      Operation = "permission to write plain values"
	Connect         Operation = "connect to" // peer
	ShowAddresses   Operation = "its addresses"
)

// phrase returns how a finding advises an operation.
func (r *Replicator) phrase(o Operation, args ...string) string {
	if r.cfg.Phrase != nil {
		return r.cfg.Phrase(o, args...)
	}
	return strings.Join(append([]string{string(o)}, args...), " ")
}
