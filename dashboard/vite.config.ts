// Builds the dashboard into dist/app. `npm run dev` serves it with hot reload and passes the API on to a running node:
// HIVEWARD_URL names it, http://127.0.0.1:7700 if not set.
import react from '@vitejs/plugin-react';
import { defineConfig } from 'vitest/config';

const node = process.env.HIVEWARD_URL ?? 'http://127.0.0.1:7700';
// The gateway checks that a WebSocket's origin is its own host.
const proxied = { target: node, ws: true, changeOrigin: true, headers: { origin: new URL(node).origin } };

export default defineConfig({
  base: '/ui/',
  plugins: [react()],
  // GraphiQL's page is built apart.
  optimizeDeps: { entries: ['index.html'] },
  build: {
    outDir: 'dist/app',
    emptyOutDir: true,
    target: 'es2022',
    // Read by tools/first_load.mjs.
    manifest: 'manifest.json',
    // Small assets stay files: the page's policy allows no inline scripts.
    assetsInlineLimit: 0,
  },
  server: {
    port: 7780,
    proxy: {
      '/graphql': proxied,
      '/attach': proxied,
      '/metrics': proxied,
      '/readyz': proxied,
      '/ui/graphiql': proxied,
    },
  },
  test: { environment: 'happy-dom', include: ['src/**/*.test.{ts,tsx}'] },
});
