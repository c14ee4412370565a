package daemon

import (
	"strings"
	"testing"

	"github.com/newpieceplease/npp/orbit"
)

func TestDefaultSettingsAreWithinTheBounds(t *testing.T) {
	if err := DefaultSettings().Check(); err != nil {
		t.Error(err)
	}
}

func TestCheckNamesTheSettingThatIsOutOfBounds(t *testing.T) {
	for begin, edit := range map[string]func(*Settings){
		"Messages.MaxPerSecond is 0,":   func(s *Settings) { s.Messages.MaxPerSecond = 0 },
		"Disk.FreeBytes is ":            func(s *Settings) { s.Disk.FreeBytes = 1 << 62 },
		"Databases.AllBytes is 8388608": func(s *Settings) { s.Databases.AllBytes = minDatabaseBytes },
	} {
		s := DefaultSettings()
		edit(&s)
		if err := s.Check(); err == nil || !strings.HasPrefix(err.Error(), begin) {
			t.Errorf("got %v, want %s…", err, begin)
		}
		if d, err := New(t.Context(), Config{Settings: s}); d != nil || err == nil || !strings.HasPrefix(err.Error(), begin) {
			t.Errorf("New: got %v, want %s…", err, begin)
		}
	}
}

func TestDatabaseLimitsAreQuotas(t *testing.T) {
	l := DatabaseLimits{DatabaseBytes: 1, CompanionBytes: 2, AllBytes: 3, WaitingBytes: 4}
	if got, want := l.quotas(), (orbit.Quotas{Database: 1, Group: 2, All: 3, Pending: 4}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}
