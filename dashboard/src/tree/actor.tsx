// One actor that is followed: its state, what happened to it since this page was opened, and a fault to try it with.
import { Alert, Button, CloseButton, Group, Modal, NumberInput, Select, Stack, Text, Title } from '@mantine/core';
import { Zap } from 'lucide-react';
import { useState } from 'react';
import { graphql } from '../live/graphql';
import { never, useLive } from '../live/use_live';
import { useAct } from '../ui/act';
import { CopyKey, KeyLink, keyPath } from '../ui/key';
import { ProblemNote } from '../ui/shown';
import { State, word } from '../ui/state';
import { Ago, At, duration } from '../ui/time';
import { type Change, ChangeText, type TreeActor } from './tree';

const INJECT = graphql(
  `mutation InjectFault($input: InjectFaultInput!) { injectFault(input: $input) { points { point } } }`,
);
const PLACES = graphql(`query FaultPlaces { faultPlaces { point about } }`);
const FAULTS = graphql(`query Faults { faults { point key fault times struck armedAt } }`);

export function ActorPanel({
  actor,
  path,
  node,
  changes,
  close,
}: {
  actor: TreeActor | undefined;
  path: string;
  node: string | undefined;
  changes: Change[];
  close: () => void;
}) {
  const [trying, setTrying] = useState(false);
  return (
    <aside className="card" style={{ overflow: 'auto', minWidth: 0 }} aria-label="The chosen actor">
      <Group justify="space-between" wrap="nowrap" align="flex-start">
        <div style={{ minWidth: 0 }}>
          <Title order={2} className="wrap" size="h3">
            {actor?.entityName ?? path.split('/').at(-1)}
          </Title>
          <Text size="xs" c="dimmed" className="mono wrap">
            {path}
          </Text>
        </div>
        <CloseButton aria-label="Close" onClick={close} />
      </Group>
      {!actor ? (
        <Text size="sm" c="dimmed" my="sm">
          It is not in this node’s tree now. It was removed, or lives on another node.
        </Text>
      ) : (
        <Stack gap="sm" mt="sm">
          <Group gap="xs">
            <State status={actor.status} as={actor.status === 'RUNNING' ? 'good' : undefined} />
            <Text size="sm">{actor.kind}</Text>
            {actor.note && (
              <Text size="sm" c="dimmed">
                {actor.note}
              </Text>
            )}
          </Group>
          <dl className="facts">
            {actor.key && (
              <>
                <dt>Key</dt>
                <dd>{keyPath(actor.key) ? <KeyLink id={actor.key} /> : <CopyKey id={actor.key} />}</dd>
              </>
            )}
            <dt>Started</dt>
            <dd>
              <Ago at={actor.startedAt} />
            </dd>
            <dt>Restarts</dt>
            <dd className="num">{actor.restarts}</dd>
            <dt>Mailbox</dt>
            <dd className="num">
              {actor.mailbox} {actor.mailboxBound > 0 && <span className="dim">of at most {actor.mailboxBound}</span>}
            </dd>
            {actor.childCount > 0 && (
              <>
                <dt>Children</dt>
                <dd className="num">{actor.childCount}</dd>
              </>
            )}
            {actor.lastFailure && (
              <>
                <dt>Last failure</dt>
                <dd>
                  <span style={{ color: 'var(--bad)' }}>{actor.lastFailure.message}</span>{' '}
                  <span className="dim">
                    <Ago at={actor.lastFailure.at} />
                  </span>
                </dd>
                <dt>Recovered in</dt>
                <dd className="num" data-recovered>
                  {actor.lastFailure.recoveredInMs === null ? 'not yet' : duration(actor.lastFailure.recoveredInMs)}
                </dd>
              </>
            )}
          </dl>
          <Button
            size="compact-sm"
            variant="default"
            leftSection={<Zap size={14} />}
            onClick={() => setTrying(true)}
            style={{ alignSelf: 'flex-start' }}
          >
            Inject a fault
          </Button>
        </Stack>
      )}
      <Title order={3} mt="md" mb={4}>
        Since this page was opened
      </Title>
      {changes.length === 0 ? (
        <Text size="sm" c="dimmed">
          Nothing happened to it. Only changes on the node that serves this page are told as they happen.
        </Text>
      ) : (
        <ul className="bare" aria-label="Changes">
          {changes.slice(0, 100).map((change, index) => (
            // biome-ignore lint/suspicious/noArrayIndexKey: changes have no name of their own
            <li key={`${change.at}${index}`} style={{ display: 'flex', gap: 10, padding: '0.15rem 0' }}>
              <span className="dim" style={{ fontSize: '0.8rem' }}>
                <At at={change.at} />
              </span>
              <ChangeText change={change} />
            </li>
          ))}
        </ul>
      )}
      {trying && actor && <Inject actor={actor} node={node} close={() => setTrying(false)} />}
    </aside>
  );
}

type FaultKind = ReturnType<typeof graphql.scalar<'FaultKind'>>;

const FAULTS_OFFERED: { value: FaultKind; label: string }[] = [
  { value: 'PANIC', label: 'Panic: it crashes and is restarted' },
  { value: 'ERROR', label: 'Error: it fails with a message' },
  { value: 'DELAY', label: 'Delay: it answers late' },
  { value: 'HANG', label: 'Hang: it never answers' },
  { value: 'ABORT', label: 'Abort: the whole node ends at once' },
];

function Inject({ actor, node, close }: { actor: TreeActor; node: string | undefined; close: () => void }) {
  const act = useAct(INJECT);
  const places = useLive(PLACES, {}, { touches: never });
  const [fault, setFault] = useState<FaultKind>('PANIC');
  const [point, setPoint] = useState('actor.handle');
  const [times, setTimes] = useState<number | string>(1);
  const [delayMs, setDelayMs] = useState<number | string>(1_000);
  const submit = async () => {
    const done = await act.run(
      {
        point,
        fault,
        key: actor.key ?? actor.path,
        times: typeof times === 'number' ? times : 1,
        delayMs: fault === 'DELAY' && typeof delayMs === 'number' ? delayMs : null,
        message: fault === 'ERROR' ? 'injected from the dashboard' : null,
      },
      'The fault is armed. It strikes at the actor’s next message.',
    );
    if (done) close();
  };
  return (
    <Modal opened onClose={close} title={`Inject a fault into ${actor.entityName ?? actor.name}`}>
      <Stack>
        <Alert color="yellow" variant="light" styles={{ message: { color: 'var(--mantine-color-text)' } }}>
          {fault === 'ABORT'
            ? 'The process of the node that serves this page ends at once. What it held starts elsewhere, or with it again.'
            : 'This really breaks the running actor. Supervision recovers it; you will see how long that takes.'}
          {node && ' It is armed on the node that serves this page.'}
        </Alert>
        <Select
          label="Fault"
          data={FAULTS_OFFERED}
          value={fault}
          allowDeselect={false}
          onChange={(value) => value && setFault(value as FaultKind)}
        />
        <Select
          label="Where it strikes"
          description={places.data?.faultPlaces.find((place) => place.point === point)?.about}
          data={places.data?.faultPlaces.map((place) => place.point) ?? [point]}
          value={point}
          searchable
          allowDeselect={false}
          onChange={(value) => value && setPoint(value)}
          nothingFoundMessage="There is no such place"
        />
        <Group grow>
          <NumberInput label="Strikes" min={1} max={1_000} value={times} onChange={setTimes} />
          {fault === 'DELAY' && <NumberInput label="Milliseconds" min={1} value={delayMs} onChange={setDelayMs} />}
        </Group>
        {act.problem && <ProblemNote problem={act.problem} />}
        <Group justify="flex-end">
          <Button variant="default" onClick={close}>
            Keep it whole
          </Button>
          <Button color="red.9" loading={act.running} onClick={submit}>
            Inject
          </Button>
        </Group>
      </Stack>
    </Modal>
  );
}

/** Faults that are armed and have strikes left. */
export function ArmedFaults() {
  const live = useLive(FAULTS, {}, { touches: () => false, everyMs: 3_000 });
  const armed = live.data?.faults.filter(({ times, struck }) => struck < times) ?? [];
  if (armed.length === 0) return null;
  return (
    <span
      className="state tone-warn"
      title={armed
        .map(
          ({ fault, point, key, struck, times }) =>
            `${word(fault)} at ${point}${key ? ` for ${key}` : ''}, ${struck} of ${times}`,
        )
        .join('\n')}
    >
      {armed.length === 1 ? '1 fault is armed' : `${armed.length} faults are armed`}
    </span>
  );
}
