// The terminal of an agent's process. It begins as a look; typing needs a deliberate take-over, and can be given back.
import { Button, Group, Text } from '@mantine/core';
import { FitAddon } from '@xterm/addon-fit';
import { Terminal as Xterm } from '@xterm/xterm';
import '@xterm/xterm/css/xterm.css';
import { Keyboard, Lock, Plug } from 'lucide-react';
import { useEffect, useRef, useState } from 'react';
import { socket as socketAt } from '../live/elsewhere';
import { token } from '../live/session';

type Phase = { state: 'connecting' } | { state: 'attached'; attempt: number } | { state: 'ended'; why: string };

export default function AgentTerminal({ agent, task }: { agent: string; task: string }) {
  const [typing, setTyping] = useState(false);
  const [round, setRound] = useState(0);
  const [phase, setPhase] = useState<Phase>({ state: 'connecting' });
  const place = useRef<HTMLDivElement>(null);

  // biome-ignore lint/correctness/useExhaustiveDependencies: another round attaches again
  useEffect(() => {
    const box = place.current;
    if (!box) return;
    setPhase({ state: 'connecting' });
    const terminal = new Xterm({
      disableStdin: !typing,
      cursorBlink: typing,
      fontSize: 13,
      fontFamily: 'ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace',
      scrollback: 5_000,
      screenReaderMode: true,
      theme: { background: '#14161a', foreground: '#e6e8eb' },
    });
    const fit = new FitAddon();
    terminal.loadAddon(fit);
    terminal.open(box);
    fit.fit();
    // Links in what a program writes are text: where they lead is the program's choice, not ours.
    const query = new URLSearchParams({ agent, task, readOnly: String(!typing) });
    const socket = new WebSocket(socketAt(`/attach/ws?${query}`));
    socket.binaryType = 'arraybuffer';
    const size = () => {
      // Only who types decides how large it is.
      if (!typing || socket.readyState !== WebSocket.OPEN) return;
      socket.send(JSON.stringify({ type: 'resize', cols: terminal.cols, rows: terminal.rows }));
    };
    socket.onopen = () => {
      socket.send(JSON.stringify({ type: 'connection_init', payload: { Authorization: `Bearer ${token()}` } }));
    };
    socket.onmessage = ({ data }) => {
      if (data instanceof ArrayBuffer) {
        terminal.write(new Uint8Array(data));
        return;
      }
      const said = JSON.parse(String(data)) as { type: string; attempt?: number; how?: string; message?: string };
      if (said.type === 'attached') {
        setPhase({ state: 'attached', attempt: said.attempt ?? 0 });
        size();
        if (typing) terminal.focus();
      } else if (said.type === 'ended') setPhase({ state: 'ended', why: `The process has ended: ${said.how ?? ''}` });
      else if (said.type === 'error') setPhase({ state: 'ended', why: said.message ?? 'It was refused.' });
    };
    socket.onclose = ({ reason, code }) => {
      setPhase((before) =>
        before.state === 'ended'
          ? before
          : { state: 'ended', why: reason || `The connection was cut (${code}). The process lives on.` },
      );
    };
    const typed = terminal.onData((data) => {
      if (typing && socket.readyState === WebSocket.OPEN) socket.send(new TextEncoder().encode(data));
    });
    const resized = new ResizeObserver(() => {
      fit.fit();
      size();
    });
    resized.observe(box);
    return () => {
      resized.disconnect();
      typed.dispose();
      socket.onclose = null;
      socket.onmessage = null;
      socket.close();
      terminal.dispose();
    };
  }, [agent, task, typing, round]);

  return (
    <div>
      <Group justify="space-between" mb="xs" gap="xs">
        <Text size="sm" role="status" component="div">
          {phase.state === 'connecting' && 'Attaching…'}
          {phase.state === 'attached' &&
            (typing ? 'You type. What you type goes to the program.' : 'You only look; nothing you type is sent.')}
          {phase.state === 'ended' && phase.why}
        </Text>
        <Group gap="xs">
          {phase.state === 'ended' && (
            <Button
              size="compact-sm"
              variant="default"
              leftSection={<Plug size={14} />}
              onClick={() => setRound((before) => before + 1)}
            >
              Attach again
            </Button>
          )}
          {phase.state === 'attached' && (
            <Button
              size="compact-sm"
              variant={typing ? 'filled' : 'default'}
              leftSection={typing ? <Lock size={14} /> : <Keyboard size={14} />}
              onClick={() => setTyping(!typing)}
            >
              {typing ? 'Give back' : 'Take over'}
            </Button>
          )}
        </Group>
      </Group>
      <div ref={place} className="terminal" data-phase={phase.state} data-typing={typing} />
    </div>
  );
}
