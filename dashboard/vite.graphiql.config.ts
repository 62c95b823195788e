// Builds GraphiQL into dist/graphiql, a page of its own beside the dashboard; nothing is loaded from another host.
import { defineConfig } from 'vite';

export default defineConfig({
  root: 'graphiql',
  base: '/ui/graphiql/',
  build: {
    outDir: '../dist/graphiql',
    emptyOutDir: true,
    target: 'es2022',
    chunkSizeWarningLimit: 8000,
    // Small assets stay files: the page's policy allows no inline scripts.
    assetsInlineLimit: 0,
  },
  worker: { format: 'es' },
});
