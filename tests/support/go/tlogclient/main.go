// Command tlogclient reads a log served as C2SP tiles and checks it with the Go project's own
// checksum database code (golang.org/x/mod/sumdb/note and tlog): nothing of Provledger is in it.
//
//	tlogclient -url URL -vkey VKEY [-index N [-entry FILE] [-out FILE]] [-old FILE]
//
// It verifies the signature on the checkpoint; that the entry with that index is in the tree, and
// equals that in a file, or is written to one; and that the tree extends that of an older checkpoint.
// Exit status: 0 if all of it holds, 1 if anything does not.
package main

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

const (
	tileHeight = 8
	tileWidth  = 1 << tileHeight
	maxBody    = 32 << 20
)

var errNotFound = errors.New("not found")

func main() {
	url := flag.String("url", "", "URL prefix of the log")
	vkey := flag.String("vkey", "", "verifier key of the log's checkpoints")
	index := flag.Int64("index", -1, "log index of an entry to prove")
	entry := flag.String("entry", "", "file that the entry must equal")
	out := flag.String("out", "", "file to write the entry to, once it is proven")
	old := flag.String("old", "", "file with an older checkpoint of the log")
	flag.Parse()
	client := &client{prefix: strings.TrimSuffix(*url, "/"), http: http.Client{Timeout: 20 * time.Second}}
	if err := run(client, *vkey, *index, *entry, *out, *old); err != nil {
		fmt.Fprintln(os.Stderr, "does not hold:", err)
		os.Exit(1)
	}
}

func run(client *client, vkey string, index int64, entryFile, outFile, oldFile string) error {
	verifier, err := note.NewVerifier(vkey)
	if err != nil {
		return err
	}
	signed, err := client.get("checkpoint")
	if err != nil {
		return err
	}
	tree, err := openCheckpoint(signed, verifier)
	if err != nil {
		return err
	}
	fmt.Printf("checkpoint of tree size %d is signed by %s\n", tree.N, verifier.Name())
	// Checks every tile against the tree's hash before it is used.
	hashes := tlog.TileHashReader(tree, client)
	if index >= 0 {
		data, err := proveEntry(client, hashes, tree, index, entryFile)
		if err != nil {
			return fmt.Errorf("entry %d: %w", index, err)
		}
		if outFile != "" {
			if err := os.WriteFile(outFile, data, 0o644); err != nil {
				return err
			}
		}
		fmt.Printf("entry %d is in the tree\n", index)
	}
	if oldFile != "" {
		oldSigned, err := os.ReadFile(oldFile)
		if err != nil {
			return err
		}
		older, err := openCheckpoint(oldSigned, verifier)
		if err != nil {
			return err
		}
		proof, err := tlog.ProveTree(tree.N, older.N, hashes)
		if err != nil {
			return err
		}
		if err := tlog.CheckTree(proof, tree.N, tree.Hash, older.N, older.Hash); err != nil {
			return err
		}
		fmt.Printf("the tree extends that of size %d\n", older.N)
	}
	return nil
}

func proveEntry(client *client, hashes tlog.HashReader, tree tlog.Tree, index int64, file string) ([]byte, error) {
	if index >= tree.N {
		return nil, errors.New("beyond the tree")
	}
	data, err := client.entry(tree, index)
	if err != nil {
		return nil, err
	}
	if file != "" {
		wanted, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		if !bytes.Equal(data, wanted) {
			return nil, errors.New("it is another one")
		}
	}
	proof, err := tlog.ProveRecord(tree.N, index, hashes)
	if err != nil {
		return nil, err
	}
	return data, tlog.CheckRecord(proof, tree.N, tree.Hash, index, tlog.RecordHash(data))
}

// openCheckpoint reads a C2SP checkpoint: origin, size, hash. tlog.ParseTree reads the checksum
// database's own first line only.
func openCheckpoint(signed []byte, verifier note.Verifier) (tlog.Tree, error) {
	opened, err := note.Open(signed, note.VerifierList(verifier))
	if err != nil {
		return tlog.Tree{}, err
	}
	lines := strings.Split(opened.Text, "\n")
	if len(lines) != 4 || lines[0] != verifier.Name() || lines[3] != "" {
		return tlog.Tree{}, errors.New("this is not a checkpoint of that log")
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil {
		return tlog.Tree{}, err
	}
	hash, err := base64.StdEncoding.Strict().DecodeString(lines[2])
	if err != nil || len(hash) != tlog.HashSize {
		return tlog.Tree{}, errors.New("the hash of the tree cannot be read")
	}
	return tlog.Tree{N: size, Hash: tlog.Hash(hash)}, nil
}

type client struct {
	prefix string
	http   http.Client
}

func (c *client) Height() int { return tileHeight }

func (c *client) SaveTiles([]tlog.Tile, [][]byte) {}

// ReadTiles returns tiles as they are served; TileHashReader checks them.
func (c *client) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	data := make([][]byte, len(tiles))
	for i, tile := range tiles {
		body, err := c.tile(fmt.Sprintf("tile/%d", tile.L), tile.N, tile.W)
		if err != nil {
			return nil, err
		}
		if len(body) < tile.W*tlog.HashSize {
			return nil, fmt.Errorf("tile %d/%d is too short", tile.L, tile.N)
		}
		data[i] = body[:tile.W*tlog.HashSize]
	}
	return data, nil
}

// entry finds one entry in its bundle: 16 bits of length before each.
func (c *client) entry(tree tlog.Tree, index int64) ([]byte, error) {
	bundle := index / tileWidth
	width := min(tree.N-bundle*tileWidth, tileWidth)
	rest, err := c.tile("tile/entries", bundle, int(width))
	if err != nil {
		return nil, err
	}
	for skip := index % tileWidth; ; skip-- {
		if len(rest) < 2 || len(rest) < 2+int(binary.BigEndian.Uint16(rest)) {
			return nil, errors.New("the bundle is cut off")
		}
		end := 2 + int(binary.BigEndian.Uint16(rest))
		if skip == 0 {
			return rest[2:end], nil
		}
		rest = rest[end:]
	}
}

// tile gets a partial tile, or the full one that has taken its place.
func (c *client) tile(kind string, n int64, width int) ([]byte, error) {
	path := kind + "/" + number(n)
	if width < tileWidth {
		body, err := c.get(fmt.Sprintf("%s.p/%d", path, width))
		if !errors.Is(err, errNotFound) {
			return body, err
		}
	}
	return c.get(path)
}

func number(n int64) string {
	path := fmt.Sprintf("%03d", n%1000)
	for n >= 1000 {
		n /= 1000
		path = fmt.Sprintf("x%03d/%s", n%1000, path)
	}
	return path
}

func (c *client) get(path string) ([]byte, error) {
	response, err := c.http.Get(c.prefix + "/" + path)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	switch response.StatusCode {
	case http.StatusOK:
		return io.ReadAll(io.LimitReader(response.Body, maxBody))
	case http.StatusNotFound:
		return nil, fmt.Errorf("%s: %w", path, errNotFound)
	default:
		return nil, fmt.Errorf("%s: %s", path, response.Status)
	}
}
