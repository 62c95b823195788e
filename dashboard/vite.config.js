// Builds GraphiQL into dist/graphiql, where the gateway embeds it; nothing is loaded from another host.
import { defineConfig } from 'vite';

export default defineConfig({
  base: '/ui/graphiql/',
  build: {
    outDir: 'dist/graphiql',
    target: 'es2022',
    chunkSizeWarningLimit: 8000,
    // Small assets stay files: the page's policy allows no inline scripts.
    assetsInlineLimit: 0,
  },
  worker: { format: 'es' },
  server: { proxy: { '/graphql': { target: 'http://127.0.0.1:7700', ws: true } } },
});
