package replicate

import "time"

// IdentityWithin is when an identity that is asked for has come.
const IdentityWithin = identityWithin

// SetIdentifyAfter sets when a connected peer has said what it speaks, and returns
// what puts it back.
func SetIdentifyAfter(d time.Duration) func() {
	old := identifyAfter
	identifyAfter = d
	return func() { identifyAfter = old }
}
