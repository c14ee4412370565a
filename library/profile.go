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

// Keys of the user store that are there from the beginning.
const (
	KeyUsername = "username" // how the owner is called
	KeyPieces   = "pieces"   // address of the store of pieces
	KeyPractice = "practice" // address of the store of practice counts
	KeyNodeID   = "nodeId"   // the daemon's peer ID
)

const (
	// MaxUsername is the longest name of a person, in characters.
	MaxUsername = 64

	// MaxProfileKey is the longest key of a profile, in bytes.
	MaxProfileKey = 256
)

// ErrManaged says that a field of the profile is the daemon's.
var ErrManaged = errors.New("the daemon itself keeps this field")

// managedKeys are what others follow us by.
var managedKeys = []string{KeyPieces, KeyPractice, KeyNodeID}

// Profile yields the fields of the profile, in the order in which they were put.
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

// ProfileField returns a field of the profile, or [orbit.ErrNotFound].
func (l *Library) ProfileField(ctx context.Context, key string) (value.Value, error) {
	kv, err := l.keyValue(ctx, userAt)
	if err != nil {
		return nil, err
	}
	item, err := kv.Get(ctx, key)
	return item.Value, err
}

// SetProfileField sets a field of the profile. The username has 1 to
// [MaxUsername] characters that can be shown, and is not written like a peer ID
// ([ErrInvalid]). The fields by which others follow this daemon are not to be set
// ([ErrManaged]).
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

// RemoveProfileField removes a field of the profile, or returns
// [orbit.ErrNotFound]. The fields that the daemon needs stay ([ErrManaged]), and so
// does the username, which others call the owner by.
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
		return fmt.Errorf("%w: a field has a name of 1 to %d bytes of text", ErrInvalid, MaxProfileKey)
	case slices.Contains(managedKeys, key):
		return fmt.Errorf("%w: %q", ErrManaged, key)
	}
	return nil
}

// CheckUsername reports what keeps a text from being the name of a person.
func CheckUsername(name string) error {
	switch {
	case name == "" || utf8.RuneCountInString(name) > MaxUsername:
		return fmt.Errorf("%w: a username has 1 to %d characters", ErrInvalid, MaxUsername)
	case strings.TrimSpace(name) != name || strings.IndexFunc(name, unseen) >= 0:
		return fmt.Errorf("%w: a username has no spaces around it and only characters that can be shown", ErrInvalid)
	case strings.HasPrefix(name, "/") || strings.HasPrefix(name, "-"):
		return fmt.Errorf("%w: a username does not begin with %q", ErrInvalid, name[:1])
	}
	if _, err := peer.Decode(name); err == nil {
		return fmt.Errorf("%w: a username is not a peer ID", ErrInvalid)
	}
	return nil
}

// unseen reports whether a character cannot be shown, or is shown as nothing.
func unseen(r rune) bool {
	return !unicode.IsPrint(r) || unicode.In(r, unicode.Other_Default_Ignorable_Code_Point, unicode.Variation_Selector)
}

// nameOf is the name that a value of "username" is: a text, or a number as in the
// tutorial. It is "" where that is no name that can be shown.
func nameOf(v value.Value) string {
	name, ok := v.Text()
	if !ok && v != nil {
		name = v.String()
	}
	return checkedName(name)
}

// Username returns how the owner is called, or "" if that is not known.
func (l *Library) Username(ctx context.Context) (string, error) {
	v, err := l.ProfileField(ctx, KeyUsername)
	if errors.Is(err, orbit.ErrNotFound) {
		return "", nil
	}
	return nameOf(v), err
}

// ownProfile takes a field of the user store.
func (l *Library) ownProfile(key value.Value, item *orbit.Item) {
	if name, _ := key.Text(); name == KeyUsername && item != nil {
		l.renamed(nameOf(item.Value))
	}
}

// renamed tells the peers how the owner is called now.
func (l *Library) renamed(name string) {
	l.mu.Lock()
	changed := l.username != name
	l.username = name
	l.mu.Unlock()
	if changed {
		l.cards.Announce()
	}
}
