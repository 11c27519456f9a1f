// Command flood sends prepared requests of one unary method, each in a call of its own, and says how
// they were answered, as JSON. It is for load that a client in Python cannot make beside the services
// on the same machine.
//
//	flood -target HOST:PORT -method /pkg.Service/Method -requests FILE
//	      [-first N] [-rate PER_S | -flight N] [-connections N] [-seconds S]
//
// FILE holds requests one after the other, each behind its length as four bytes, little-endian. With
// a rate they are sent at times fixed in advance, whatever is answered; otherwise so many callers
// send one after the other. Of each status: how many calls, how many of them ended while it lasted,
// how long they took in milliseconds, and how many had details (grpc-status-details-bin).
package main

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

const (
	limit   = 20 * time.Second // of one call
	details = "grpc-status-details-bin"
)

// asIs passes messages on without decoding them.
type asIs struct{}

func (asIs) Marshal(message any) ([]byte, error) { return *message.(*[]byte), nil }
func (asIs) Unmarshal(data []byte, message any) error {
	*message.(*[]byte) = append([]byte(nil), data...)
	return nil
}
func (asIs) Name() string { return "proto" }

type answer struct {
	code     string
	took     float64 // milliseconds
	inTime   bool
	detailed bool
}

type summary struct {
	Count       int     `json:"count"`
	InTimePerS  float64 `json:"in_time_per_s"`
	P50         float64 `json:"p50_ms"`
	P95         float64 `json:"p95_ms"`
	P99         float64 `json:"p99_ms"`
	WithDetails int     `json:"with_details"`
}

type sender struct {
	method      string
	requests    [][]byte
	connections []*grpc.ClientConn
	start       time.Time
	seconds     float64
	mutex       sync.Mutex
	answers     []answer
}

func main() {
	target := flag.String("target", "", "HOST:PORT, without TLS")
	method := flag.String("method", "", "/pkg.Service/Method")
	file := flag.String("requests", "", "file with requests")
	first := flag.Int("first", 0, "the first request to send")
	rate := flag.Float64("rate", 0, "calls a second")
	flight := flag.Int("flight", 64, "callers, without a rate")
	connections := flag.Int("connections", 2, "connections")
	seconds := flag.Float64("seconds", 4, "how long")
	flag.Parse()

	encoding.RegisterCodec(asIs{})
	requests, err := read(*file)
	if err != nil || len(requests) <= *first {
		fail("no requests in %s from %d on: %v", *file, *first, err)
	}
	sending := &sender{method: *method, requests: requests[*first:], seconds: *seconds}
	for range *connections {
		connection, err := grpc.NewClient(
			*target, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			fail("%v", err)
		}
		sending.connections = append(sending.connections, connection)
	}
	sending.start = time.Now()
	if *rate > 0 {
		sending.open(*rate)
	} else {
		sending.closed(*flight)
	}
	if err := json.NewEncoder(os.Stdout).Encode(sending.summaries()); err != nil {
		fail("%v", err)
	}
}

// open sends at times fixed in advance.
func (s *sender) open(rate float64) {
	var calls sync.WaitGroup
	for index := range min(int(rate*s.seconds), len(s.requests)) {
		due := time.Duration(float64(index) / rate * float64(time.Second))
		if wait := due - time.Since(s.start); wait > 200*time.Microsecond {
			time.Sleep(wait)
		}
		calls.Add(1)
		go func() {
			defer calls.Done()
			s.send(index)
		}()
	}
	calls.Wait()
}

// closed has so many callers, each of whom sends one request after the other.
func (s *sender) closed(flight int) {
	var callers sync.WaitGroup
	var next atomic.Int64
	for range flight {
		callers.Add(1)
		go func() {
			defer callers.Done()
			for time.Since(s.start).Seconds() < s.seconds {
				index := int(next.Add(1)) - 1
				if index >= len(s.requests) {
					return
				}
				s.send(index)
			}
		}()
	}
	callers.Wait()
}

func (s *sender) send(index int) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	var response []byte
	var trailer metadata.MD
	began := time.Now()
	connection := s.connections[index%len(s.connections)]
	err := connection.Invoke(ctx, s.method, &s.requests[index], &response, grpc.Trailer(&trailer))
	found := answer{
		code:     status.Code(err).String(),
		took:     float64(time.Since(began).Microseconds()) / 1000,
		inTime:   time.Since(s.start).Seconds() <= s.seconds,
		detailed: len(trailer.Get(details)) > 0,
	}
	s.mutex.Lock()
	s.answers = append(s.answers, found)
	s.mutex.Unlock()
}

func (s *sender) summaries() map[string]summary {
	took := map[string][]float64{}
	found := map[string]summary{}
	for _, each := range s.answers {
		took[each.code] = append(took[each.code], each.took)
		sum := found[each.code]
		sum.Count++
		if each.inTime {
			sum.InTimePerS += 1 / s.seconds
		}
		if each.detailed {
			sum.WithDetails++
		}
		found[each.code] = sum
	}
	for code, sum := range found {
		sort.Float64s(took[code])
		sum.P50, sum.P95, sum.P99 = at(took[code], 0.5), at(took[code], 0.95), at(took[code], 0.99)
		found[code] = sum
	}
	return found
}

func at(sorted []float64, part float64) float64 {
	return sorted[min(int(part*float64(len(sorted))), len(sorted)-1)]
}

func read(path string) ([][]byte, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var requests [][]byte
	for len(data) >= 4 {
		length := binary.LittleEndian.Uint32(data)
		if uint32(len(data)-4) < length {
			return nil, fmt.Errorf("cut off after %d requests", len(requests))
		}
		requests = append(requests, data[4:4+length])
		data = data[4+length:]
	}
	return requests, nil
}

func fail(format string, values ...any) {
	fmt.Fprintf(os.Stderr, "flood: "+format+"\n", values...)
	os.Exit(2)
}
