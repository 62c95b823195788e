// What a coding agent says and does in an attempt, and a person's word to it.
import { Button, Group, Text, Textarea } from '@mantine/core';
import { Send, Square } from 'lucide-react';
import { type ReactNode, useEffect, useRef, useState } from 'react';
import { follow } from '../live/follow';
import { graphql } from '../live/graphql';
import type { Problem } from '../live/problem';
import { ActButton, useAct } from '../ui/act';
import { TextBlock } from '../ui/json';
import { Empty, ProblemNote } from '../ui/shown';
import { At } from '../ui/time';

const ACTIVITY = graphql(`
  subscription Activity($task: ID!, $attempt: Int, $afterByte: Int!) {
    taskActivity(task: $task, attempt: $attempt, afterByte: $afterByte) { events nextByte atEnd }
  }
`);
const SAY = graphql(`mutation MessageTask($input: MessageTaskInput!) { messageTask(input: $input) { task { id } } }`);
const INTERRUPT = graphql(
  `mutation InterruptTask($input: InterruptTaskInput!) { interruptTask(input: $input) { task { id } } }`,
);

/** Steps that are kept; the first ones go when there are more. */
const STEPS_MAX = 3_000;

type Step = { seq: number; at: number; type: string } & Record<string, unknown>;

function isStep(event: unknown): event is Step {
  const step = event as Step | null;
  return typeof step === 'object' && step !== null && typeof step.seq === 'number' && typeof step.type === 'string';
}

type Read = { steps: Step[]; dropped: number; ended: boolean; heard: boolean; problem?: Problem };

function useActivity(task: string, attempt: number): Read {
  const [read, setRead] = useState<Read>({ steps: [], dropped: 0, ended: false, heard: false });
  useEffect(() => {
    let byte = 0;
    setRead({ steps: [], dropped: 0, ended: false, heard: false });
    return follow(ACTIVITY, () => ({ task, attempt, afterByte: byte }), {
      take: ({ taskActivity: chunk }) => {
        byte = chunk.nextByte;
        setRead((before) => {
          const steps = [...before.steps, ...chunk.events.filter(isStep)];
          const over = Math.max(0, steps.length - STEPS_MAX);
          return {
            ...before,
            steps: over > 0 ? steps.slice(over) : steps,
            dropped: before.dropped + over,
            ended: before.ended || chunk.atEnd,
            heard: true,
          };
        });
      },
      ended: () => setRead((before) => ({ ...before, ended: true, heard: true })),
      refused: (problem) => setRead((before) => ({ ...before, problem, heard: true })),
    });
  }, [task, attempt]);
  return read;
}

export function Activity({ task, attempt, running }: { task: string; attempt: number; running: boolean }) {
  const { steps, dropped, ended, heard, problem } = useActivity(task, attempt);
  const end = useRef<HTMLDivElement>(null);
  const scroller = useRef<HTMLDivElement>(null);
  const following = useRef(true);
  // biome-ignore lint/correctness/useExhaustiveDependencies: it follows what is new
  useEffect(() => {
    const box = scroller.current;
    if (following.current && box) box.scrollTop = box.scrollHeight;
  }, [steps]);
  return (
    <div>
      {problem && <ProblemNote problem={problem} />}
      <div
        ref={scroller}
        className="activity"
        role="log"
        aria-label="Activity"
        aria-live="off"
        tabIndex={0}
        onScroll={({ currentTarget: box }) => {
          following.current = box.scrollHeight - box.scrollTop - box.clientHeight < 40;
        }}
      >
        {dropped > 0 && <p className="dim">{dropped} earlier steps are not shown; hiveward task activity has them.</p>}
        {steps.length === 0 && !problem && heard && (
          <Empty title={ended ? 'It did nothing' : 'It has done nothing yet'} />
        )}
        {steps.map((step) => (
          <StepLine key={step.seq} step={step} />
        ))}
        <div ref={end} />
      </div>
      {running && !ended && <Talk task={task} />}
    </div>
  );
}

function Talk({ task }: { task: string }) {
  const say = useAct(SAY);
  const interrupt = useAct(INTERRUPT);
  const [text, setText] = useState('');
  const send = async () => {
    if (text.trim() === '') return;
    if (await say.run({ task, text }, 'It was told.')) setText('');
  };
  return (
    <div style={{ marginTop: '0.7rem' }}>
      <Group gap="xs" align="flex-end">
        <Textarea
          size="xs"
          style={{ flex: '1 1 16rem' }}
          aria-label="Say something to it"
          placeholder="Say something to it…"
          autosize
          minRows={1}
          maxRows={8}
          value={text}
          onChange={(event) => setText(event.currentTarget.value)}
          onKeyDown={(event) => {
            if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) void send();
          }}
        />
        <Button
          size="xs"
          leftSection={<Send size={13} />}
          loading={say.running}
          disabled={text.trim() === ''}
          onClick={send}
        >
          Say
        </Button>
        <ActButton
          act={interrupt}
          input={{ task }}
          done="Its turn ends; it waits for a message."
          size="xs"
          leftSection={<Square size={13} />}
        >
          Interrupt
        </ActButton>
      </Group>
      {say.problem && <ProblemNote problem={say.problem} />}
    </div>
  );
}

const words = (value: unknown): string =>
  typeof value === 'string' ? value : value === undefined || value === null ? '' : JSON.stringify(value);

function StepLine({ step }: { step: Step }) {
  const [who, body] = told(step);
  return (
    <div className={`step step-${step.type}`}>
      <span className="dim step-at">
        <At at={step.at} />
      </span>
      <span className="step-who">{who}</span>
      <div className="wrap" style={{ minWidth: 0 }}>
        {body}
      </div>
    </div>
  );
}

function Folded({ head, text, label }: { head: ReactNode; text: string; label: string }) {
  return (
    <details>
      <summary>{head}</summary>
      <TextBlock text={text} label={label} />
    </details>
  );
}

/** Who does it, and what. */
function told(step: Step): [string, ReactNode] {
  switch (step.type) {
    case 'began':
      return ['hiveward', words(step.why) ? `started it again: ${words(step.why)}` : 'started the program'];
    case 'greeted':
      return ['program', [step.program, step.model].map(words).filter(Boolean).join(', ')];
    case 'prompted': {
      const by = step.by as string | { person?: string };
      const who = typeof by === 'object' ? (by.person ?? 'person') : by;
      return [
        who,
        <div key="text" style={{ whiteSpace: 'pre-wrap' }}>
          {words(step.text)}
        </div>,
      ];
    }
    case 'said':
      return [
        'agent',
        <div key="text" style={{ whiteSpace: 'pre-wrap' }}>
          {words(step.text)}
        </div>,
      ];
    case 'thought':
      return [
        'agent',
        <Text key="text" size="sm" c="dimmed" fs="italic" style={{ whiteSpace: 'pre-wrap' }}>
          {words(step.text)}
        </Text>,
      ];
    case 'toolCalled':
      return [
        'tool',
        <Folded
          key="call"
          head={
            <>
              <strong className="mono">{words(step.tool)}</strong> <span className="dim">{brief(step.input)}</span>
            </>
          }
          text={JSON.stringify(step.input, null, 2)}
          label={`Input of ${words(step.tool)}`}
        />,
      ];
    case 'toolEnded':
      return [
        'tool',
        <Folded
          key="end"
          head={
            <span style={{ color: step.failed ? 'var(--bad)' : undefined }}>
              {step.failed ? 'failed' : 'answered'} <span className="dim">{words(step.output).slice(0, 100)}</span>
            </span>
          }
          text={words(step.output)}
          label="What the tool answered"
        />,
      ];
    case 'touched':
      return [
        'tool',
        <>
          wrote <span className="mono">{words(step.path)}</span>
        </>,
      ];
    case 'asked':
      return [
        'program',
        <>
          asks for <strong className="mono">{words(step.tool)}</strong>: {words(step.why)}
        </>,
      ];
    case 'answered':
      return [
        words(step.by),
        `${words(step.decision).toLowerCase() === 'allow' ? 'allowed it' : 'denied it'}${step.message ? `: ${words(step.message)}` : ''}`,
      ];
    case 'withdrawn':
      return ['program', 'does not wait for the answer any more'];
    case 'takenOver':
      return [words(step.by), 'took it over'];
    case 'givenBack':
      return [words(step.by), 'gave it back'];
    case 'interrupted':
      return [words(step.by), 'interrupted it'];
    case 'turnEnded': {
      const end = step.end as { how?: string; message?: string } | undefined;
      const usage = step.usage as Record<string, number> | undefined;
      return [
        'program',
        <>
          turn{' '}
          {end?.how === 'failed' ? (
            <span style={{ color: 'var(--bad)' }}>failed: {words(end.message)}</span>
          ) : (
            (end?.how ?? 'ended')
          )}
          {usage && (
            <span className="dim num">
              {' '}
              · {usage.input ?? 0} in, {usage.output ?? 0} out, as the program counts
            </span>
          )}
        </>,
      ];
    }
    case 'nudged':
      return ['hiveward', `nudged it: ${words(step.why)}`];
    case 'died':
      return [
        'program',
        <span key="died" style={{ color: 'var(--bad)' }}>
          died: {words(step.how)}
        </span>,
      ];
    case 'noted':
      return ['note', words(step.text)];
    default:
      return [step.type, <Folded key="other" head="details" text={JSON.stringify(step, null, 2)} label={step.type} />];
  }
}

/** The most telling argument of a tool. */
function brief(input: unknown): string {
  if (typeof input !== 'object' || input === null) return words(input).slice(0, 120);
  const fields = input as Record<string, unknown>;
  const telling =
    fields.command ?? fields.file_path ?? fields.path ?? fields.pattern ?? fields.url ?? Object.values(fields)[0];
  return words(telling).slice(0, 120);
}
