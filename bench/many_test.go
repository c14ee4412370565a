package main

import (
	"slices"
	"testing"
)

func TestCountsAreParsed(t *testing.T) {
	c := counts{1}
	if err := c.Set("2000,100000"); err != nil || !slices.Equal(c, counts{2000, 100000}) || c.String() != "2000,100000" {
		t.Errorf("%v, %v", c, err)
	}
	for _, bad := range []string{"", "0", "-5", "10,", "1e3"} {
		if err := c.Set(bad); err == nil {
			t.Errorf("%q is accepted as %v", bad, c)
		}
	}
}
