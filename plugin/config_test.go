package plugin

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/newpieceplease/npp/daemon"
	"github.com/newpieceplease/npp/message"
)

// decoded returns decoded JSON, as kubo passes it to a plugin.
func decoded(t testing.TB, text string) any {
	t.Helper()
	var raw any
	if err := json.Unmarshal([]byte(text), &raw); err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestConfigDefaultsToTheDefaultLimits(t *testing.T) {
	for _, text := range []string{`null`, `{}`, `{"Messages": {}}`, `{"Disk": {}}`, `{"Databases": {}}`} {
		c, err := parseConfig(decoded(t, text))
		if err != nil || c != daemon.DefaultSettings() {
			t.Errorf("%s: %+v, %v", text, c, err)
		}
	}
}

func TestConfigReachesEveryLimit(t *testing.T) {
	const text = `{"Messages": {
		"MaxMessageBytes": 1000,
		"MaxPerSecond": 5,
		"StoreBytes": 3000000,
		"PeerBytes": 2000000,
		"PubsubBytes": 4000000,
		"KeepFor": "36h",
		"WhenPeerFull": "drop-oldest"
	}}`
	want := message.Limits{
		MaxMessageBytes: 1000,
		MaxPerSecond:    5,
		StoreBytes:      3000000,
		PeerBytes:       2000000,
		PubsubBytes:     4000000,
		KeepFor:         message.Duration(36 * time.Hour),
		WhenPeerFull:    message.DropOldest,
	}
	c, err := parseConfig(decoded(t, text))
	if err != nil || c.Messages != want {
		t.Errorf("got %+v, %v\nwant %+v", c.Messages, err, want)
	}
	got, defaults := reflect.ValueOf(c.Messages), reflect.ValueOf(message.DefaultLimits())
	for i := range got.NumField() {
		if got.Field(i).Equal(defaults.Field(i)) {
			t.Errorf("no key sets %s", got.Type().Field(i).Name)
		}
	}
}

func TestConfigReachesTheFloorOfFreeSpace(t *testing.T) {
	c, err := parseConfig(decoded(t, `{"Disk": {"FreeBytes": 1073741824}}`))
	if want := (daemon.DiskLimits{FreeBytes: 1 << 30}); err != nil || c.Disk != want || c.Messages != message.DefaultLimits() {
		t.Errorf("got %+v, %v", c, err)
	}
}

func TestConfigReachesTheQuotas(t *testing.T) {
	c, err := parseConfig(decoded(t, `{"Databases": {"DatabaseBytes": 10000000, "CompanionBytes": 20000000, "AllBytes": 30000000, "WaitingBytes": 9000000}}`))
	want := daemon.DatabaseLimits{DatabaseBytes: 10_000_000, CompanionBytes: 20_000_000, AllBytes: 30_000_000, WaitingBytes: 9_000_000}
	if err != nil || c.Databases != want {
		t.Errorf("got %+v, %v", c.Databases, err)
	}
}

// The error for a mistake begins with the full path of its key.
func TestConfigNamesTheKeyOfAMistake(t *testing.T) {
	for _, test := range []struct{ text, key, says string }{
		{`5`, "", "must be an object, not 5"},
		{`"Messages"`, "", `must be an object, not "Messages"`},
		{`[]`, "", "must be an object, not []"},
		{`true`, "", "must be an object, not true"},
		{`{"Mesages": {}}`, ".Mesages", "is not known; known there: Databases, Disk, Messages"},
		{`{"messages": {}}`, ".messages", "is not known; known there: Databases, Disk, Messages"},
		{`{"": {}}`, ".", "is not known"},
		{`{"Messages": null}`, ".Messages", "must be an object, not null"},
		{`{"Messages": []}`, ".Messages", "must be an object, not []"},
		{`{"Messages": 1}`, ".Messages", "must be an object, not 1"},
		{`{"Messages": {"MaxSize": 1}}`, ".Messages.MaxSize", "is not known; known there: KeepFor, MaxMessageBytes"},
		{`{"Messages": {"maxmessagebytes": 1}}`, ".Messages.maxmessagebytes", "is not known"},
		{`{"Messages": {"Messages": {}}}`, ".Messages.Messages", "is not known"},
		{`{"Messages": {"MaxMessageBytes": null}}`, ".Messages.MaxMessageBytes", "is null"},
		{`{"Messages": {"KeepFor": null}}`, ".Messages.KeepFor", "is null"},
		{`{"Messages": {"MaxMessageBytes": "1000"}}`, ".Messages.MaxMessageBytes", `is "1000", must be a whole number`},
		{`{"Messages": {"MaxMessageBytes": true}}`, ".Messages.MaxMessageBytes", "is true, must be a whole number"},
		{`{"Messages": {"MaxMessageBytes": {}}}`, ".Messages.MaxMessageBytes", "is {}, must be a whole number"},
		{`{"Messages": {"MaxMessageBytes": 1.5}}`, ".Messages.MaxMessageBytes", "is 1.5, must be a whole number"},
		{`{"Messages": {"MaxMessageBytes": -1}}`, ".Messages.MaxMessageBytes", "is -1, must be a whole number"},
		{`{"Messages": {"StoreBytes": 1e300}}`, ".Messages.StoreBytes", "is 1e+300, must be a whole number"},
		{`{"Messages": {"MaxMessageBytes": 0}}`, ".Messages.MaxMessageBytes", "is 0, must be from 1 to"},
		{`{"Messages": {"MaxMessageBytes": 1000000000}}`, ".Messages.MaxMessageBytes", "is 1000000000, must be from 1 to"},
		{`{"Messages": {"MaxPerSecond": 0}}`, ".Messages.MaxPerSecond", "is 0, must be from 1 to"},
		{`{"Messages": {"PeerBytes": 10}}`, ".Messages.PeerBytes", "is 10, must be MaxMessageBytes"},
		{`{"Messages": {"StoreBytes": 10}}`, ".Messages.StoreBytes", "is 10, must be PeerBytes"},
		{`{"Messages": {"PubsubBytes": 10}}`, ".Messages.PubsubBytes", "is 10, must be 1048576 or more"},
		{`{"Messages": {"KeepFor": 36}}`, ".Messages.KeepFor", "is 36, must be a duration"},
		{`{"Messages": {"KeepFor": "36"}}`, ".Messages.KeepFor", `is "36", must be a duration`},
		{`{"Messages": {"KeepFor": "a fortnight"}}`, ".Messages.KeepFor", `is "a fortnight", must be a duration`},
		{`{"Messages": {"KeepFor": "-1h"}}`, ".Messages.KeepFor", "is -1h0m0s, must be 0s"},
		{`{"Messages": {"WhenPeerFull": 1}}`, ".Messages.WhenPeerFull", "is 1, must be a string"},
		{`{"Messages": {"WhenPeerFull": "maybe"}}`, ".Messages.WhenPeerFull", `is "maybe", must be "refuse" or "drop-oldest"`},
		{`{"Messages": {"WhenPeerFull": ""}}`, ".Messages.WhenPeerFull", `is "", must be`},
		{`{"Databases": {"DatabaseBytes": 1}}`, ".Databases.DatabaseBytes", "is 1, must be 8388608 or more"},
		{`{"Databases": {"CompanionBytes": 1}}`, ".Databases.CompanionBytes", "is 1, must be 8388608 or more"},
		{`{"Databases": {"AllBytes": 1}}`, ".Databases.AllBytes", "is 1, must be DatabaseBytes (2147483648) and CompanionBytes (2147483648) or more"},
		{`{"Databases": {"CompanionBytes": 20000000000}}`, ".Databases.AllBytes", "is 10737418240, must be DatabaseBytes (2147483648) and CompanionBytes (20000000000) or more"},
		{`{"Databases": {"WaitingBytes": 1}}`, ".Databases.WaitingBytes", "is 1, must be from 8388608 to 1099511627776"},
		{`{"Databases": {"WaitingBytes": 2199023255552}}`, ".Databases.WaitingBytes", "is 2199023255552, must be from 8388608 to 1099511627776"},
		{`{"Disk": []}`, ".Disk", "must be an object, not []"},
		{`{"Disk": {"Free": 1}}`, ".Disk.Free", "is not known; known there: FreeBytes"},
		{`{"Disk": {"FreeBytes": "1 GiB"}}`, ".Disk.FreeBytes", `is "1 GiB", must be a whole number`},
		{`{"Disk": {"FreeBytes": -1}}`, ".Disk.FreeBytes", "is -1, must be a whole number"},
		{`{"Disk": {"FreeBytes": 2305843009213693952}}`, ".Disk.FreeBytes", "is 2305843009213694000, must be 1152921504606846976 or less"},
	} {
		_, err := parseConfig(decoded(t, test.text))
		if err == nil {
			t.Errorf("%s is accepted", test.text)
			continue
		}
		if want := "Plugins.Plugins.npp.Config" + test.key + " " + test.says; !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s\n got %v\nwant %s …", test.text, err, want)
		}
		if strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: more than a line: %v", test.text, err)
		}
	}
}

func FuzzConfig(f *testing.F) {
	for _, text := range []string{
		`null`, `{}`, `[]`, `{"Messages": {"KeepFor": "1h", "MaxPerSecond": 7, "WhenPeerFull": "refuse"}}`,
		`{"Messages": {"MaxMessageBytes": 1e3}}`, `{"Messages": {"Messages": null}}`,
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var raw any
		if json.Unmarshal([]byte(text), &raw) != nil {
			t.Skip("kubo refuses the config")
		}
		c, err := parseConfig(raw)
		if err != nil {
			if !strings.HasPrefix(err.Error(), daemon.SettingsPath) || !utf8.ValidString(err.Error()) && utf8.ValidString(text) {
				t.Errorf("%q: %q", text, err)
			}
			return
		}
		if err := c.Check(); err != nil {
			t.Errorf("%q is accepted: %v", text, err)
		}
	})
}
