package main

import (
	"strings"
	"testing"
)

// For a package that passes, the last line is shown; for one that fails, the
// output of failed and unfinished tests and the output outside tests. Lines
// that are not events are shown. The slowest tests are sorted, and a test has
// at least the time of its parallel subtests.
func TestReportShowsWhatFailedAndWhatWasSlow(t *testing.T) {
	const events = `{"Action":"start","Package":"good"}
{"Action":"output","Package":"good","Test":"TestQuick","Output":"=== RUN   TestQuick\n"}
{"Action":"output","Package":"good","Test":"TestQuick","Output":"    quick_test.go:1: a log\n"}
{"Action":"output","Package":"bad","Test":"TestSlow","Output":"    slow_test.go:1: why it failed\n"}
{"Action":"pass","Package":"good","Test":"TestQuick","Elapsed":0.5}
{"Action":"output","Package":"good","Output":"PASS\n"}
{"Action":"output","Package":"good","Output":"ok  \tgood\t0.6s\n"}
{"Action":"pass","Package":"good","Elapsed":0.6}
warning: no event
{"Action":"output","Package":"bad","Test":"TestFine","Output":"    fine_test.go:1: a log of what passed\n"}
{"Action":"pass","Package":"bad","Test":"TestFine","Elapsed":1.25}
{"Action":"fail","Package":"bad","Test":"TestSlow/part","Elapsed":9}
{"Action":"fail","Package":"bad","Test":"TestSlow","Elapsed":12}
{"Action":"pass","Package":"bad","Test":"TestMany/one","Elapsed":3}
{"Action":"pass","Package":"bad","Test":"TestMany/two/half","Elapsed":4}
{"Action":"pass","Package":"bad","Test":"TestMany/two","Elapsed":0}
{"Action":"pass","Package":"bad","Test":"TestMany","Elapsed":0}
{"Action":"output","Package":"bad","Test":"TestHangs","Output":"panic: test timed out\n"}
{"Action":"output","Package":"bad","Output":"FAIL\tbad\t20s\n"}
{"Action":"fail","Package":"bad","Elapsed":20}
{"Action":"build-output","ImportPath":"worse","Output":"worse.go:1:1: expected 'package'\n"}
{"Action":"build-fail","ImportPath":"worse"}
{"Action":"output","Package":"worse","Output":"FAIL\tworse [build failed]\n"}
{"Action":"fail","Package":"worse","Elapsed":0,"FailedBuild":"worse"}
`
	const want = `ok  	good	0.6s
warning: no event
    slow_test.go:1: why it failed
panic: test timed out
FAIL	bad	20s
worse.go:1:1: expected 'package'
FAIL	worse [build failed]
The slowest tests:
    12.0s  TestSlow  bad
     7.0s  TestMany  bad
     1.2s  TestFine  bad
     0.5s  TestQuick  good
`
	var got strings.Builder
	r := newReport(&got)
	r.read(strings.NewReader(events))
	r.slowest()
	if got.String() != want {
		t.Errorf("got\n%s\nwant\n%s", got.String(), want)
	}
}
