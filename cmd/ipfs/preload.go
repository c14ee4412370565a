// Code generated from preload_list by cmd/preload. DO NOT EDIT.

package main

import (
	"github.com/ipfs/kubo/plugin"
	"github.com/ipfs/kubo/plugin/loader"

	pluginnpp "github.com/newpieceplease/npp/plugin"
)

// preload loads the plugins of preload_list, after kubo's own.
func preload(l *loader.PluginLoader) error {
	for _, plugins := range [][]plugin.Plugin{
		pluginnpp.Plugins,
	} {
		for _, p := range plugins {
			if err := l.Load(p); err != nil {
				return err
			}
		}
	}
	return nil
}
