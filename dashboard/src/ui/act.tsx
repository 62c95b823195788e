// Doing something: one operation id per intention, so that trying again after no answer is safe; what came of it is told.
import { Button, type ButtonProps, Group, Modal, Stack, Text } from '@mantine/core';
import type { TadaDocumentNode } from 'gql.tada';
import { type ReactNode, useRef, useState } from 'react';
import { asProblem, type Problem } from '../live/problem';
import { operationId, request } from '../live/request';
import { ProblemNote } from './shown';
import { toast } from './toast';

export type Act<Input> = {
  /** Answers whether it was done. */
  run: (input: Omit<Input, 'operationId'>, done?: string) => Promise<boolean>;
  running: boolean;
  problem: Problem | undefined;
  clear: () => void;
};

export function useAct<Data, Input extends object>(
  document: TadaDocumentNode<Data, { input: Input }, unknown>,
  after?: (data: Data) => void,
): Act<Input> {
  const [running, setRunning] = useState(false);
  const [problem, setProblem] = useState<Problem>();
  /** Kept while the same thing is tried again. */
  const intention = useRef<{ input: string; id: string }>(undefined);
  const run = async (input: Omit<Input, 'operationId'>, done?: string) => {
    const text = JSON.stringify(input);
    if (intention.current?.input !== text) intention.current = { input: text, id: operationId() };
    setRunning(true);
    setProblem(undefined);
    try {
      const data = await request(document, {
        input: { ...input, operationId: intention.current.id } as unknown as Input,
      });
      intention.current = undefined;
      if (done) toast(done);
      after?.(data);
      return true;
    } catch (error) {
      const found = asProblem(error);
      // A refusal is an answer: the next try is another intention.
      if (found.code !== 'UNKNOWN_OUTCOME') intention.current = undefined;
      setProblem(found);
      return false;
    } finally {
      setRunning(false);
    }
  };
  return { run, running, problem, clear: () => setProblem(undefined) };
}

/** A button that does it at once; a problem is told where it can be read. */
export function ActButton<Input extends object>({
  act,
  input,
  done,
  children,
  ...button
}: { act: Act<Input>; input: Omit<Input, 'operationId'>; done: string; children: ReactNode } & ButtonProps) {
  return (
    <>
      <Button size="xs" variant="default" {...button} loading={act.running} onClick={() => act.run(input, done)}>
        {children}
      </Button>
      <Modal opened={act.problem !== undefined} onClose={act.clear} title="It was not done">
        <Stack>
          {act.problem && <ProblemNote problem={act.problem} />}
          <Group justify="flex-end">
            <Button variant="default" onClick={act.clear}>
              Close
            </Button>
            {act.problem?.retryable && (
              <Button loading={act.running} onClick={() => act.run(input, done)}>
                Try again
              </Button>
            )}
          </Group>
        </Stack>
      </Modal>
    </>
  );
}

/** A button that first says what will come of it. */
export function ConfirmButton<Input extends object>({
  act,
  input,
  done,
  title,
  consequence,
  confirm,
  children,
  more,
  ...button
}: {
  act: Act<Input>;
  input: Omit<Input, 'operationId'>;
  done: string;
  title: string;
  consequence: ReactNode;
  confirm: string;
  children: ReactNode;
  /** Fields that belong to it. */
  more?: ReactNode;
} & ButtonProps) {
  const [asking, setAsking] = useState(false);
  const close = () => {
    setAsking(false);
    act.clear();
  };
  return (
    <>
      <Button size="xs" variant="default" {...button} onClick={() => setAsking(true)}>
        {children}
      </Button>
      <Modal opened={asking} onClose={close} title={title}>
        <Stack>
          <Text size="sm" component="div">
            {consequence}
          </Text>
          {more}
          {act.problem && <ProblemNote problem={act.problem} />}
          <Group justify="flex-end">
            <Button variant="default" onClick={close} data-autofocus>
              Keep as it is
            </Button>
            <Button color="red.9" loading={act.running} onClick={async () => (await act.run(input, done)) && close()}>
              {confirm}
            </Button>
          </Group>
        </Stack>
      </Modal>
    </>
  );
}
