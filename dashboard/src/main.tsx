import './ui/mantine';
import './styles.css';
import { createTheme, MantineProvider } from '@mantine/core';
import { RouterProvider } from '@tanstack/react-router';
import { createRoot } from 'react-dom/client';
import { Broken } from './app/broken';
import { router } from './app/router';
import { begin } from './live/feed';
import { begin as beginSamples } from './metrics/samples';
import { Toasts } from './ui/toast';

const theme = createTheme({
  primaryColor: 'indigo',
  // Dark enough for white text on it in both schemes.
  primaryShade: { light: 8, dark: 8 },
  fontFamily: 'system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif',
  fontFamilyMonospace: 'ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace',
  defaultRadius: 'md',
  headings: {
    fontWeight: '600',
    sizes: { h1: { fontSize: '1.35rem' }, h2: { fontSize: '1.05rem' }, h3: { fontSize: '0.95rem' } },
  },
  cursorType: 'pointer',
  // Who asks the system for less motion gets none: a dialog that is closed is gone at once.
  respectReducedMotion: true,
  components: {
    Tooltip: { defaultProps: { withArrow: true, openDelay: 250, multiline: true, maw: 420 } },
    Modal: { defaultProps: { centered: true, closeButtonProps: { 'aria-label': 'Close' } } },
  },
});

begin();
beginSamples();
const root = document.getElementById('root');
if (root) {
  createRoot(root).render(
    <MantineProvider theme={theme} defaultColorScheme="auto">
      <Toasts />
      <Broken>
        <RouterProvider router={router} />
      </Broken>
    </MantineProvider>,
  );
}
