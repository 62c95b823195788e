// What a person can do to a task: cancel it, or send it on its way again, perhaps edited.
import { Button, Group, Modal, NumberInput, Stack, Textarea, TextInput } from '@mantine/core';
import { CircleStop, RotateCcw } from 'lucide-react';
import { useState } from 'react';
import { graphql } from '../live/graphql';
import { ActButton, ConfirmButton, useAct } from '../ui/act';
import { ProblemNote } from '../ui/shown';
import { ended } from './filter';
import type { TaskData } from './query';

const CANCEL = graphql(`mutation CancelTask($input: CancelTaskInput!) { cancelTask(input: $input) { cursor } }`);
const RETRY = graphql(`mutation RetryTask($input: RetryTaskInput!) { retryTask(input: $input) { cursor } }`);

export function TaskActions({ task, refresh }: { task: TaskData; refresh: () => void }) {
  const cancel = useAct(CANCEL, refresh);
  const retry = useAct(RETRY, refresh);
  if (!ended(task.status)) {
    const runs = task.status === 'RUNNING' || task.status === 'VERIFYING';
    return (
      <ConfirmButton
        act={cancel}
        input={{ task: task.id }}
        done="The task is cancelled."
        title="Cancel this task?"
        consequence={
          <>
            {runs ? 'Its program is stopped, and what it has not returned is lost.' : 'It will not run.'} Tasks that
            depend on it are cancelled too. It can be sent on its way again later.
          </>
        }
        confirm="Cancel the task"
        leftSection={<CircleStop size={15} />}
      >
        Cancel
      </ConfirmButton>
    );
  }
  return (
    <>
      <ActButton
        act={retry}
        input={{ task: task.id }}
        done="The task is on its way again."
        leftSection={<RotateCcw size={15} />}
      >
        {task.status === 'DEAD' ? 'Redrive' : 'Run again'}
      </ActButton>
      <Edited task={task} refresh={refresh} />
    </>
  );
}

/** What is wrong with the edit, in words, or the input that it makes. */
export function editedWork(
  task: Pick<TaskData, 'command' | 'kind'>,
  { argv, cwd, payload }: { argv: string; cwd: string; payload: string },
): { problem: string } | { work: object } {
  if (task.command) {
    const words = argv.split('\n').filter((word) => word !== '');
    if (words.length === 0) return { problem: 'A command needs a program.' };
    return { work: { command: { argv: words, cwd: cwd || null, stdin: task.command.stdin, env: task.command.env } } };
  }
  try {
    return { work: { kind: task.kind, payload: payload.trim() === '' ? null : JSON.parse(payload) } };
  } catch {
    return { problem: 'This is no JSON. A text needs quotation marks.' };
  }
}

function Edited({ task, refresh }: { task: TaskData; refresh: () => void }) {
  const [open, setOpen] = useState(false);
  return (
    <>
      <Button size="xs" variant="default" onClick={() => setOpen(true)}>
        Edit and run again
      </Button>
      {open && <Editor task={task} refresh={refresh} close={() => setOpen(false)} />}
    </>
  );
}

function Editor({ task, refresh, close }: { task: TaskData; refresh: () => void; close: () => void }) {
  const retry = useAct(RETRY, refresh);
  const [argv, setArgv] = useState(task.command?.argv.join('\n') ?? '');
  const [cwd, setCwd] = useState(task.command?.cwd ?? '');
  const [payload, setPayload] = useState(JSON.stringify(task.payload ?? null, null, 2));
  const [attempts, setAttempts] = useState<number | string>(task.retry.maxAttempts);
  const [seconds, setSeconds] = useState<number | string>(task.runTimeoutMs === null ? '' : task.runTimeoutMs / 1_000);
  const edited = editedWork(task, { argv, cwd, payload });
  const submit = async () => {
    if ('problem' in edited) return;
    const done = await retry.run(
      {
        task: task.id,
        work: edited.work,
        retry: typeof attempts === 'number' ? { maxAttempts: attempts } : null,
        runTimeoutMs: typeof seconds === 'number' ? Math.round(seconds * 1_000) : null,
      },
      'The edited task is on its way.',
    );
    if (done) close();
  };
  return (
    <Modal opened onClose={close} title="Edit and run again" size="lg">
      <Stack>
        {task.command ? (
          <>
            <Textarea
              label="Program and arguments"
              description="One per line, without quotation marks; no shell unless the program is one"
              value={argv}
              onChange={(event) => setArgv(event.currentTarget.value)}
              autosize
              minRows={3}
              maxRows={14}
              styles={{ input: { fontFamily: 'var(--mantine-font-family-monospace)' } }}
              error={'problem' in edited ? edited.problem : undefined}
            />
            <TextInput
              label="Working directory"
              placeholder="the attempt’s own"
              value={cwd}
              onChange={(event) => setCwd(event.currentTarget.value)}
            />
          </>
        ) : (
          <Textarea
            label={`Payload of ${task.kind}`}
            description="JSON"
            value={payload}
            onChange={(event) => setPayload(event.currentTarget.value)}
            autosize
            minRows={4}
            maxRows={18}
            styles={{ input: { fontFamily: 'var(--mantine-font-family-monospace)' } }}
            error={'problem' in edited ? edited.problem : undefined}
          />
        )}
        <Group grow>
          <NumberInput label="Attempts at most" min={1} max={100} value={attempts} onChange={setAttempts} />
          <NumberInput
            label="Seconds per attempt"
            placeholder="no limit"
            min={0.001}
            value={seconds}
            onChange={setSeconds}
          />
        </Group>
        {retry.problem && <ProblemNote problem={retry.problem} />}
        <Group justify="flex-end">
          <Button variant="default" onClick={close}>
            Keep as it is
          </Button>
          <Button onClick={submit} loading={retry.running} disabled={'problem' in edited}>
            Run again
          </Button>
        </Group>
      </Stack>
    </Modal>
  );
}
