package library

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/newpieceplease/npp/orbit"
	"github.com/newpieceplease/npp/orbit/value"
)

// Keys of the initial fields of a user database.
const (
	KeyUsername = "username" // name of the owner
	KeyPieces   = "pieces"   // address of the pieces database
	KeyPractice = "practice" // address of the practice database
	KeyNodeID   = "nodeId"   // peer ID of the daemon
)

const (
	// MaxUsername is the length of the longest username, in characters.
	MaxUsername = 64

	// MaxProfileKey is the length of the longest profile key, in bytes.
	MaxProfileKey = 256
)

// ErrManaged is returned for a field of the profile that the daemon manages.
var ErrManaged = errors.New("the daemon manages this field")

// managedKeys are the keys by which peers follow this daemon.
var managedKeys = []string{KeyPieces, KeyPractice, KeyNodeID}

// Profile yields the fields of the profile in the order in which they were put.
func (l *Library) Profile(ctx context.Context) iter.Seq2[orbit.Item, error] {
	return func(yield func(orbit.Item, error) bool) {
		kv, err := l.keyValue(ctx, userAt)
		if err != nil {
			yield(orbit.Item{}, err)
			return
		}
		for item, err := range kv.All(ctx) {
			if !yield(item, err) {
				return
			}
		}
	}
}

// ProfileField returns a field of the profile. The error wraps
// [orbit.ErrNotFound].
func (l *Library) ProfileField(ctx context.Context, key string) (value.Value, error) {
	kv, err := l.keyValue(ctx, userAt)
	if err != nil {
		return nil, err
	}
	item, err := kv.Get(ctx, key)
	return item.Value, err
}

// SetProfileField sets a field of the profile. The error wraps [ErrInvalid] for
// a username that [CheckUsername] refuses, and [ErrManaged] for a field by
// which peers follow this daemon.
func (l *Library) SetProfileField(ctx context.Context, key string, v value.Value) error {
	if err := checkProfileKey(key); err != nil {
		return err
	}
	if key == KeyUsername {
		name, _ := v.Text()
		if err := CheckUsername(name); err != nil {
			return err
		}
	}
	kv, err := l.keyValue(ctx, userAt)
	if err != nil {
		return err
	}
	if _, err = kv.Put(ctx, key, v); err == nil && key == KeyUsername {
		l.renamed(nameOf(v))
	}
	return err
}

// RemoveProfileField removes a field of the profile. The error wraps
// [orbit.ErrNotFound], or [ErrManaged] for the username and for a field by
// which peers follow this daemon.
func (l *Library) RemoveProfileField(ctx context.Context, key string) error {
	if err := checkProfileKey(key); err != nil {
		return err
	}
	if key == KeyUsername {
		return fmt.Errorf("%w, but can be set: %q", ErrManaged, key)
	}
	kv, err := l.keyValue(ctx, userAt)
	if err != nil {
		return err
	}
	if _, err := kv.Get(ctx, key); err != nil {
		return err
	}
	_, err = kv.Delete(ctx, key)
	return err
}

func checkProfileKey(key string) error {
	switch {
	case key == "" || len(key) > MaxProfileKey || !utf8.ValidString(key):
		return fmt.Errorf("%w: the name of a field has 1 to %d bytes of text", ErrInvalid, MaxProfileKey)
	case slices.Contains(managedKeys, key):
		return fmt.Errorf("%w: %q", ErrManaged, key)
	}
	return nil
}

// CheckUsername returns why a text is not a valid username, or nil. A username
// has 1 to [MaxUsername] printable characters, no surrounding spaces and no
// leading "/" or "-", and is not a peer ID.
func CheckUsername(name string) error {
	switch {
	case name == "" || utf8.RuneCountInString(name) > MaxUsername:
		return fmt.Errorf("%w: a username has 1 to %d characters", ErrInvalid, MaxUsername)
	case strings.TrimSpace(name) != name || strings.IndexFunc(name, invisible) >= 0:
		return fmt.Errorf("%w: a username has only printable characters and no surrounding spaces", ErrInvalid)
	case strings.HasPrefix(name, "/") || strings.HasPrefix(name, "-"):
		return fmt.Errorf("%w: a username does not begin with %q", ErrInvalid, name[:1])
	}
	if _, err := peer.Decode(name); err == nil {
		return fmt.Errorf("%w: a username is not a peer ID", ErrInvalid)
	}
	return nil
}

// invisible reports whether a character is not printable, or has no visible
// form.
func invisible(r rune) bool {
	return !unicode.IsPrint(r) || unicode.In(r, unicode.Other_Default_Ignorable_Code_Point, unicode.Variation_Selector)
}

// nameOf returns the username in a value of KeyUsername, which is a text or, in
// the tutorial, a number. It returns "" for an invalid username.
func nameOf(v value.Value) string {
	name, ok := v.Text()
	if !ok && v != nil {
		name = v.String()
	}
	return checkedName(name)
}

// Username returns the username of the owner, or "" if there is none.
func (l *Library) Username(ctx context.Context) (string, error) {
	v, err := l.ProfileField(ctx, KeyUsername)
	if errors.Is(err, orbit.ErrNotFound) {
		return "", nil
	}
	return nameOf(v), err
}

// profileChanged handles a change of the user database. item is nil if the key
// was deleted.
func (l *Library) profileChanged(key value.Value, item *orbit.Item) {
	if name, _ := key.Text(); name == KeyUsername && item != nil {
		l.renamed(nameOf(item.Value))
	}
}

// renamed sets the username, and sends it to peers if it changed.
func (l *Library) renamed(name string) {
	l.mu.Lock()
	changed := l.username != name
	l.username = name
	l.mu.Unlock()
	if changed {
		l.cards.Announce()
	}
}
