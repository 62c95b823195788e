// A program's output, live: colours, search, follow, download.
import { ActionIcon, Button, Group, Switch, Text, TextInput, Tooltip } from '@mantine/core';
import { useVirtualizer } from '@tanstack/react-virtual';
import { ArrowDown, ArrowUp, Download, Search } from 'lucide-react';
import { type CSSProperties, useEffect, useMemo, useRef, useState } from 'react';
import { useConnection } from '../live/connection';
import { follow } from '../live/follow';
import { graphql } from '../live/graphql';
import type { Problem } from '../live/problem';
import { bytes, count } from '../ui/figures';
import { ProblemNote } from '../ui/shown';
import { type Line, Output as Lines, plain, type Style } from './ansi';

const OUTPUT = graphql(`
  subscription Output($task: ID!, $attempt: Int, $afterByte: Int!) {
    taskOutput(task: $task, attempt: $attempt, afterByte: $afterByte) { text stream nextByte atEnd }
  }
`);
const RAW = graphql(`
  subscription RawOutput($task: ID!, $attempt: Int) {
    taskOutput(task: $task, attempt: $attempt, afterByte: 0) { base64 nextByte atEnd }
  }
`);

type Read = { lines: Line[]; dropped: number; byte: number; ended: boolean; problem?: Problem };
const NOTHING: Read = { lines: [], dropped: 0, byte: 0, ended: false };

function useOutput(task: string, attempt: number): Read {
  const [read, setRead] = useState<Read>(NOTHING);
  useEffect(() => {
    const output = new Lines();
    let byte = 0;
    let ended = false;
    let problem: Problem | undefined;
    let frame = 0;
    // Chunks of a burst are shown together.
    const show = () => {
      frame ||= requestAnimationFrame(() => {
        frame = 0;
        setRead({ lines: output.lines, dropped: output.dropped, byte, ended, problem });
      });
    };
    setRead(NOTHING);
    const stop = follow(OUTPUT, () => ({ task, attempt, afterByte: byte }), {
      take: ({ taskOutput: chunk }) => {
        byte = chunk.nextByte;
        ended ||= chunk.atEnd;
        output.push(chunk.text, chunk.stream === 'STDERR');
        show();
      },
      ended: () => {
        ended = true;
        show();
      },
      refused: (found) => {
        problem = found;
        show();
      },
    });
    return () => {
      cancelAnimationFrame(frame);
      stop();
    };
  }, [task, attempt]);
  return read;
}

export function Output({ task, attempt }: { task: string; attempt: number }) {
  const { lines, dropped, byte, ended, problem } = useOutput(task, attempt);
  const { state } = useConnection();
  const [following, setFollowing] = useState(true);
  const [find, setFind] = useState('');
  const [at, setAt] = useState(0);
  const [saving, setSaving] = useState(false);
  const scroller = useRef<HTMLDivElement>(null);
  const virtual = useVirtualizer({
    count: lines.length,
    getScrollElement: () => scroller.current,
    estimateSize: () => 20,
    overscan: 30,
    getItemKey: (index) => lines[index]?.id ?? index,
  });
  const hits = useMemo(() => {
    const wanted = find.toLowerCase();
    if (wanted === '') return [];
    return lines.flatMap((line, index) => (plain(line).toLowerCase().includes(wanted) ? [index] : []));
  }, [lines, find]);
  const hit = hits[Math.min(at, hits.length - 1)];
  useEffect(() => {
    if (following && lines.length > 0) virtual.scrollToIndex(lines.length - 1, { align: 'end' });
  }, [following, lines, virtual]);
  useEffect(() => {
    if (hit !== undefined) virtual.scrollToIndex(hit, { align: 'center' });
  }, [hit, virtual]);
  const step = (by: number) => {
    setFollowing(false);
    setAt((before) => (hits.length === 0 ? 0 : (Math.min(before, hits.length - 1) + by + hits.length) % hits.length));
  };
  return (
    <div>
      <Group gap="xs" mb="xs" justify="space-between">
        <Group gap={4}>
          <TextInput
            size="xs"
            w={190}
            aria-label="Search the output"
            placeholder="Search"
            leftSection={<Search size={13} aria-hidden />}
            value={find}
            onChange={(event) => {
              setFind(event.currentTarget.value);
              setAt(0);
              if (event.currentTarget.value !== '') setFollowing(false);
            }}
            onKeyDown={(event) => event.key === 'Enter' && step(event.shiftKey ? -1 : 1)}
          />
          {find !== '' && (
            <>
              <Text size="xs" c="dimmed" className="num" role="status">
                {hits.length === 0 ? 'nothing found' : `${Math.min(at, hits.length - 1) + 1} of ${hits.length}`}
              </Text>
              <ActionIcon variant="subtle" color="gray" size="sm" aria-label="The one before" onClick={() => step(-1)}>
                <ArrowUp size={14} />
              </ActionIcon>
              <ActionIcon variant="subtle" color="gray" size="sm" aria-label="The next one" onClick={() => step(1)}>
                <ArrowDown size={14} />
              </ActionIcon>
            </>
          )}
        </Group>
        <Group gap="sm">
          <Text size="xs" c="dimmed" className="num">
            {bytes(byte)}
            {ended ? '' : state === 'live' ? ', live' : ', not live'}
          </Text>
          <Switch
            size="xs"
            label="Follow"
            checked={following}
            onChange={(event) => setFollowing(event.currentTarget.checked)}
          />
          <Tooltip label="Download all of it as it was written">
            <Button
              size="compact-xs"
              variant="default"
              leftSection={<Download size={13} />}
              loading={saving}
              disabled={byte === 0 || state !== 'live'}
              onClick={() => {
                setSaving(true);
                download(task, attempt, byte, () => setSaving(false));
              }}
            >
              Download
            </Button>
          </Tooltip>
        </Group>
      </Group>
      {problem && <ProblemNote problem={problem} />}
      <div
        ref={scroller}
        className="output"
        role="log"
        aria-label="Output"
        aria-live="off"
        tabIndex={0}
        onWheel={(event) => event.deltaY < 0 && setFollowing(false)}
      >
        {dropped > 0 && (
          <div className="output-note">{count(dropped)} earlier lines are not shown; the download has them.</div>
        )}
        {lines.length === 0 && (
          <div className="output-note">{ended ? 'It wrote nothing.' : 'Nothing was written yet.'}</div>
        )}
        <div style={{ height: virtual.getTotalSize(), position: 'relative' }}>
          {virtual.getVirtualItems().map((item) => {
            const line = lines[item.index];
            if (!line) return null;
            return (
              <div
                key={item.key}
                ref={virtual.measureElement}
                data-index={item.index}
                className="output-line"
                data-error={line.error || undefined}
                data-hit={item.index === hit || undefined}
                style={{ transform: `translateY(${item.start}px)` }}
              >
                {line.pieces.map((piece, index) => (
                  // biome-ignore lint/suspicious/noArrayIndexKey: pieces only grow at the end
                  <span key={index} style={css(piece.style)}>
                    {piece.text}
                  </span>
                ))}
                {line.pieces.length === 0 && ' '}
              </div>
            );
          })}
        </div>
      </div>
    </div>
  );
}

function css(style: Style): CSSProperties | undefined {
  const { fg, bg, bold, dim, italic, underline, inverse } = style;
  if (!fg && !bg && !bold && !dim && !italic && !underline && !inverse) return undefined;
  return {
    color: inverse ? (bg ?? '#14161a') : fg,
    background: inverse ? (fg ?? '#e6e8eb') : bg,
    fontWeight: bold ? 700 : undefined,
    opacity: dim ? 0.75 : undefined,
    fontStyle: italic ? 'italic' : undefined,
    textDecoration: underline ? 'underline' : undefined,
  };
}

/** Reads the bytes up to `upTo` and gives them to the browser as a file. */
function download(task: string, attempt: number, upTo: number, done: () => void): void {
  const parts: Uint8Array<ArrayBuffer>[] = [];
  let stop = () => {};
  const finish = () => {
    stop();
    const url = URL.createObjectURL(new Blob(parts, { type: 'text/plain' }));
    const link = document.createElement('a');
    link.href = url;
    link.download = `${task}-${attempt}.log`;
    link.click();
    URL.revokeObjectURL(url);
    done();
  };
  stop = follow(RAW, () => ({ task, attempt }), {
    take: ({ taskOutput: chunk }) => {
      parts.push(Uint8Array.from(atob(chunk.base64), (char) => char.charCodeAt(0)));
      if (chunk.nextByte >= upTo || chunk.atEnd) finish();
    },
    ended: finish,
    refused: done,
  });
}
