package ipfs

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// NPP returns the path of the ipfs binary with npp: the one that the
// environment variable NPP_IPFS names, or else a new one, which it builds in
// dir.
func NPP(ctx context.Context, dir string) (string, error) {
	return binary(ctx, dir, "NPP_IPFS", "cmd/ipfs")
}

// Stock returns the path of the stock kubo binary: the one that the environment
// variable NPP_STOCK names, or else a new one, which it builds in dir.
func Stock(ctx context.Context, dir string) (string, error) {
	return binary(ctx, dir, "NPP_STOCK", "test/stock")
}

func binary(ctx context.Context, dir, env, pkg string) (string, error) {
	if path := os.Getenv(env); path != "" {
		return filepath.Abs(path)
	}
	path := filepath.Join(dir, filepath.Base(pkg))
	pkg = "github.com/newpieceplease/npp/" + pkg
	out, err := exec.CommandContext(ctx, "go", "build", "-buildvcs=false", "-o", path, pkg).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("go build %s: %w\n%s", pkg, err, out)
	}
	return path, nil
}
