// Package pb holds the protobuf messages of package message.
package pb

//go:generate protoc --go_out=. --go_opt=paths=source_relative message.proto
