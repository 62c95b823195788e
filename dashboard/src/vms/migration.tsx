// Moving a VM to another host: asking for it, how it goes, calling it off.
import { Checkbox, Group, NativeSelect, NumberInput } from '@mantine/core';
import { ArrowRightLeft, Undo2 } from 'lucide-react';
import { useState } from 'react';
import { graphql } from '../live/graphql';
import { ConfirmButton, useAct } from '../ui/act';
import { bytes, count } from '../ui/figures';
import { FormButton } from '../ui/form';
import { Panel } from '../ui/shown';
import { duration } from '../ui/time';

const MIGRATE = graphql(`mutation MigrateVm($input: MigrateVmInput!) { migrateVm(input: $input) { cursor } }`);
const CANCEL = graphql(
  `mutation CancelVmMigration($input: CancelVmMigrationInput!) { cancelVmMigration(input: $input) { cursor } }`,
);

type AtLimit = 'ABORT' | 'CONVERGE' | 'PAUSE';

const AT_LIMIT: { value: AtLimit; label: string }[] = [
  { value: 'ABORT', label: 'End it: the VM runs on where it is' },
  { value: 'CONVERGE', label: 'Slow the guest down until it ends' },
  { value: 'PAUSE', label: 'Let the guest stand still until it is there' },
];

export function MigrateVm({
  vm,
  hosts,
  refresh,
}: {
  vm: { id: string; name: string; host: { id: string } | null };
  hosts: ReadonlyMap<string, string>;
  refresh: () => void;
}) {
  const [to, setTo] = useState('');
  const [minutes, setMinutes] = useState<number | string>(5);
  const [atLimit, setAtLimit] = useState<AtLimit>('ABORT');
  const [live, setLive] = useState(true);
  const act = useAct(MIGRATE, refresh);
  const limitMs = Math.round((typeof minutes === 'number' ? minutes : 5) * 60_000);
  const others = [...hosts].filter(([id]) => id !== vm.host?.id).sort(([, one], [, two]) => one.localeCompare(two));
  return (
    <FormButton
      label="Migrate"
      icon={<ArrowRightLeft size={14} />}
      title={`Migrate ${vm.name}`}
      act={act}
      input={{ vm: vm.id, to: to || undefined, limitMs, atLimit, live }}
      done={`${vm.name} moves.`}
      submit="Migrate"
      note="If it fails, the VM runs on where it is. Its room on both hosts is taken until it ends."
    >
      <NativeSelect
        label="To"
        description="One without room, or with another kind of hypervisor, is refused"
        value={to}
        onChange={(event) => setTo(event.currentTarget.value)}
        data={[{ value: '', label: 'the best host' }, ...others.map(([value, label]) => ({ value, label }))]}
      />
      <Checkbox
        label="Live: its guest runs on meanwhile"
        checked={live}
        onChange={(event) => setLive(event.currentTarget.checked)}
      />
      <Group grow align="flex-start">
        <NumberInput label="Limit" suffix=" min" min={0.1} value={minutes} onChange={setMinutes} />
        <NativeSelect
          label="At the limit"
          value={atLimit}
          onChange={(event) => setAtLimit(event.currentTarget.value as AtLimit)}
          data={AT_LIMIT}
        />
      </Group>
    </FormButton>
  );
}

export type Progress = {
  elapsedMs: number | null;
  totalBytes: number | null;
  remainingBytes: number | null;
  sentBytesPerSecond: number | null;
  dirtyBytesPerSecond: number | null;
  iteration: number | null;
  forecastMs: number | null;
  isOutrun: boolean | null;
};

/** While it moves; what its hypervisor does not tell is left out. */
export function Migration({
  vm,
  progress,
  refresh,
}: {
  vm: { id: string; name: string };
  progress: Progress | null;
  refresh: () => void;
}) {
  const cancel = useAct(CANCEL, refresh);
  const { totalBytes: total, remainingBytes: left } = progress ?? { totalBytes: null, remainingBytes: null };
  return (
    <Panel
      title="It moves to another host"
      right={
        <ConfirmButton
          act={cancel}
          input={{ vm: vm.id }}
          done={`${vm.name} stays where it is.`}
          title={`Call the migration of ${vm.name} off?`}
          consequence="What was copied is dropped, and the VM runs on where it is. Once it runs on the other host it is too late, and this is refused."
          confirm="Call it off"
          leftSection={<Undo2 size={14} />}
        >
          Call it off
        </ConfirmButton>
      }
    >
      {total !== null && left !== null && total > 0 && (
        <progress max={total} value={Math.max(0, total - left)} style={{ width: '100%' }} aria-label="Copied" />
      )}
      <dl className="facts num">
        {total !== null && left !== null && (
          <>
            <dt>To copy</dt>
            <dd>
              {bytes(left)} of {bytes(total)}
              {progress?.iteration != null && `, pass ${count(progress.iteration)} over its memory`}
            </dd>
          </>
        )}
        {progress?.sentBytesPerSecond != null && (
          <>
            <dt>Sent</dt>
            <dd>{bytes(progress.sentBytesPerSecond)} a second</dd>
          </>
        )}
        {progress?.dirtyBytesPerSecond != null && (
          <>
            <dt>Written by the guest</dt>
            <dd>{bytes(progress.dirtyBytesPerSecond)} a second</dd>
          </>
        )}
        <dt>Takes</dt>
        <dd>
          {progress?.elapsedMs != null && `${duration(progress.elapsedMs)} so far, `}
          {progress?.isOutrun
            ? 'its guest writes faster than its memory is sent: it does not end by itself'
            : progress?.forecastMs != null
              ? `about ${duration(progress.forecastMs)} to go`
              : 'how long it still takes is not known'}
        </dd>
      </dl>
    </Panel>
  );
}
