// The serial console of a VM: what it said and says, as it is recorded; typing needs a deliberate step.
import { Button, Group, Text } from '@mantine/core';
import { FitAddon } from '@xterm/addon-fit';
import { Terminal as Xterm } from '@xterm/xterm';
import '@xterm/xterm/css/xterm.css';
import { Keyboard, Lock } from 'lucide-react';
import { useEffect, useRef, useState } from 'react';
import { follow } from '../live/follow';
import { graphql } from '../live/graphql';
import { asProblem } from '../live/problem';
import { request } from '../live/request';
import { fromBase64, toBase64 } from './base64';

const CONSOLE = graphql(`
  subscription VmConsole($vm: ID!, $after: Int, $last: Int!) {
    vmConsole(vm: $vm, afterByte: $after, lastBytes: $last) { afterByte nextByte base64 closed }
  }
`);
const TYPE = graphql(
  `mutation TypeVmConsole($input: TypeVmConsoleInput!) { typeVmConsole(input: $input) { typedBytes } }`,
);

/** What is shown of the past when it is opened. */
const LAST_BYTES = 65_536;

export default function VmConsole({ vm }: { vm: string }) {
  const [typing, setTyping] = useState(false);
  const [said, setSaid] = useState<'opening' | 'open' | string>('opening');
  const [refused, setRefused] = useState<string>();
  const place = useRef<HTMLDivElement>(null);
  const screen = useRef<Xterm>(undefined);

  useEffect(() => {
    const box = place.current;
    if (!box) return;
    const terminal = new Xterm({
      disableStdin: true,
      fontSize: 13,
      fontFamily: 'ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace',
      scrollback: 10_000,
      screenReaderMode: true,
      theme: { background: '#14161a', foreground: '#e6e8eb' },
    });
    screen.current = terminal;
    const fit = new FitAddon();
    terminal.loadAddon(fit);
    terminal.open(box);
    fit.fit();
    let next: number | undefined;
    const stop = follow(CONSOLE, () => ({ vm, after: next ?? null, last: LAST_BYTES }), {
      take: ({ vmConsole: { afterByte, nextByte, base64, closed } }) => {
        // More than was asked for: what lies between is not kept any more.
        if (next !== undefined && afterByte > next) terminal.write('\r\n\x1b[2m[…]\x1b[0m\r\n');
        next = nextByte;
        terminal.write(fromBase64(base64));
        setSaid(closed ?? 'open');
      },
      refused: (problem) => setSaid(problem.message),
      ended: () => setSaid('The VM is gone.'),
    });
    const resized = new ResizeObserver(() => fit.fit());
    resized.observe(box);
    return () => {
      stop();
      resized.disconnect();
      terminal.dispose();
      screen.current = undefined;
    };
  }, [vm]);

  useEffect(() => {
    const terminal = screen.current;
    if (!terminal) return;
    terminal.options.disableStdin = !typing;
    terminal.options.cursorBlink = typing;
    if (!typing) return;
    terminal.focus();
    // Keys go one request after the other, so that they arrive in the order in which they were typed.
    let waiting = '';
    let going = false;
    let over = false;
    const send = async () => {
      if (going) return;
      going = true;
      while (waiting !== '' && !over) {
        const keys = waiting;
        waiting = '';
        try {
          await request(TYPE, { input: { vm, base64: toBase64(new TextEncoder().encode(keys)) } });
          setRefused(undefined);
        } catch (error) {
          // Not typed again: it may have arrived.
          setRefused(asProblem(error).message);
        }
      }
      going = false;
    };
    const typed = terminal.onData((keys) => {
      waiting += keys;
      void send();
    });
    return () => {
      over = true;
      typed.dispose();
    };
  }, [typing, vm]);

  return (
    <div>
      <Group justify="space-between" mb="xs" gap="xs">
        <Text size="sm" role="status" component="div">
          {said === 'opening' && 'Opening…'}
          {said === 'open' && (typing ? 'You type. Keys go to the guest.' : 'You only look; nothing you type is sent.')}
          {said !== 'opening' && said !== 'open' && said}
          {refused && <span style={{ color: 'var(--bad)' }}> What was typed last may not have arrived: {refused}</span>}
        </Text>
        <Button
          size="compact-sm"
          variant={typing ? 'filled' : 'default'}
          leftSection={typing ? <Lock size={14} /> : <Keyboard size={14} />}
          onClick={() => setTyping(!typing)}
          disabled={said !== 'open' && !typing}
        >
          {typing ? 'Only look' : 'Type'}
        </Button>
      </Group>
      <div ref={place} className="terminal" data-phase={said === 'open' ? 'attached' : 'closed'} data-typing={typing} />
    </div>
  );
}
