// Command coseverify verifies the signature of a COSE receipt with github.com/veraison/go-cose:
//
//	coseverify -receipt FILE -key FILE -root HEX
//
// The key is a public key in PEM, the root the 32 bytes that the receipt's payload stands for.
// Exit status: 0 if the signature holds, 1 if it does not, or the receipt cannot be read.
package main

import (
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"os"

	"github.com/veraison/go-cose"
)

func main() {
	receipt := flag.String("receipt", "", "file with the receipt")
	key := flag.String("key", "", "file with the public key, PEM")
	root := flag.String("root", "", "root of the tree, hexadecimal")
	flag.Parse()
	if err := run(*receipt, *key, *root); err != nil {
		fmt.Fprintln(os.Stderr, "does not hold:", err)
		os.Exit(1)
	}
}

func run(receiptFile, keyFile, rootHex string) error {
	data, err := os.ReadFile(receiptFile)
	if err != nil {
		return err
	}
	pemData, err := os.ReadFile(keyFile)
	if err != nil {
		return err
	}
	block, _ := pem.Decode(pemData)
	if block == nil {
		return errors.New("the key is not PEM")
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return err
	}
	root, err := hex.DecodeString(rootHex)
	if err != nil {
		return err
	}
	var message cose.Sign1Message
	if err := message.UnmarshalCBOR(data); err != nil {
		return err
	}
	algorithm, err := message.Headers.Protected.Algorithm()
	if err != nil {
		return err
	}
	verifier, err := cose.NewVerifier(algorithm, key)
	if err != nil {
		return err
	}
	message.Payload = root
	if err := message.Verify(nil, verifier); err != nil {
		return err
	}
	fmt.Println("signature holds,", algorithm)
	return nil
}
