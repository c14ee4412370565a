package main

import (
	"strings"
	"testing"
	"time"
)

func TestListingTellsRowsFromWarnings(t *testing.T) {
	text := `{"warning":"the pieces of bob are left out"}
{"hash":"a","title":"\"warning\":"}
{"hash":"b"}
{"hash":"c"}`
	for most, rows := range map[int]int{-1: 3, 1: 1, 2: 2, 4: 3} {
		l, err := readListing(strings.NewReader(text), time.Now().Add(-time.Second), most)
		if err != nil || l.rows != rows || l.warnings != 1 || l.first < time.Second || l.last < l.first {
			t.Errorf("up to %d rows: %+v, %v", most, l, err)
		}
	}
	if l, err := readListing(strings.NewReader(""), time.Now(), -1); err != nil || l.rows != 0 || l.first != l.last {
		t.Errorf("of nothing: %+v, %v", l, err)
	}
}

func TestPiecesHaveTheirWords(t *testing.T) {
	const n = 2000
	count := make(map[string]int)
	hashes := make(map[any]bool)
	for i := range n {
		p, err := numberedPiece(i, n)
		if err != nil {
			t.Fatal(err)
		}
		hashes[p["hash"]] = true
		for _, word := range []string{wordOfOne, wordOfHundred, wordOfAll, wordOfLast} {
			if strings.Contains(strings.ToLower(p["title"].(string)), word) {
				count[word]++
			}
		}
	}
	if count[wordOfOne] != 1 || count[wordOfHundred] != hundred || count[wordOfAll] != n || count[wordOfLast] != 1 || len(hashes) != n {
		t.Errorf("%d hashes, %v", len(hashes), count)
	}
}
