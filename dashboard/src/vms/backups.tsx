// Backups of a VM: making one, those that it knows of, and those that it makes by itself.
import { Checkbox, Group, NumberInput, Text } from '@mantine/core';
import { Link } from '@tanstack/react-router';
import { Archive, CalendarClock, CalendarX, Undo2 } from 'lucide-react';
import { useState } from 'react';
import { placeOf } from '../backups/chain';
import { BackupTable } from '../backups/table';
import { graphql } from '../live/graphql';
import { ConfirmButton, useAct } from '../ui/act';
import { many } from '../ui/figures';
import { FormButton, TextField, wrong } from '../ui/form';
import { Empty, Panel } from '../ui/shown';
import { Ago, At, Took } from '../ui/time';
import type { VmData } from './vm';

const BACK_UP = graphql(`mutation BackupVm($input: BackupVmInput!) { backupVm(input: $input) { cursor } }`);
const CANCEL = graphql(
  `mutation CancelVmBackup($input: CancelVmBackupInput!) { cancelVmBackup(input: $input) { cursor } }`,
);
const SCHEDULE = graphql(
  `mutation ScheduleVmBackups($input: ScheduleVmBackupsInput!) { scheduleVmBackups(input: $input) { cursor } }`,
);
const END = graphql(
  `mutation UnscheduleVmBackups($input: UnscheduleVmBackupsInput!) { unscheduleVmBackups(input: $input) { cursor } }`,
);

const PLACE = 'A directory on the node that holds its host, which is there already; or s3://BUCKET/PREFIX';

export function VmBackups({
  vm,
  hosts,
  live,
  refresh,
}: {
  vm: VmData;
  hosts: ReadonlyMap<string, string>;
  live: { stale: boolean; at: number };
  refresh: () => void;
}) {
  const cancel = useAct(CANCEL, refresh);
  const end = useAct(END, refresh);
  const running = vm.operation?.kind === 'backup' && vm.operation.status === 'RUNNING' ? vm.operation : undefined;
  const last = vm.backups.at(-1);
  const place = vm.backupSchedule?.to ?? (last && placeOf(last.path));
  const places = [...new Set(vm.backups.map(({ path }) => placeOf(path)))];
  return (
    <Panel
      title="Backups"
      live={live}
      right={
        <>
          <BackUp vm={vm} place={place} done={refresh} />
          <Schedule vm={vm} place={place} done={refresh} />
          {vm.backupSchedule && (
            <ConfirmButton
              act={end}
              input={{ vm: vm.id }}
              done={`${vm.name} makes no backups by itself any more.`}
              title="End its schedule?"
              consequence="It makes no backup by itself any more. Those that it has made stay, and are never removed by themselves from then on."
              confirm="End it"
              leftSection={<CalendarX size={14} />}
            >
              End the schedule
            </ConfirmButton>
          )}
        </>
      }
    >
      {running && (
        <Group gap="sm" mb="sm">
          <Text size="sm">
            One is being made, for <Took from={running.startedAt} to={null} />
            {running.askedBy ? `, asked by ${running.askedBy}` : ', by its schedule'}.
          </Text>
          <ConfirmButton
            act={cancel}
            input={{ vm: vm.id }}
            done="Nothing is kept of it."
            title="Call the backup off?"
            consequence="Nothing is left of it. The VM runs on as it does now."
            confirm="Call it off"
            size="compact-xs"
            leftSection={<Undo2 size={13} />}
          >
            Call it off
          </ConfirmButton>
        </Group>
      )}
      <Scheduled vm={vm} />
      {vm.backups.length === 0 ? (
        <Empty title="It knows of no backup of it">
          A backup has all its disks as they are at one moment, while it runs on. Those that it is based on are kept
          with it.
        </Empty>
      ) : (
        <>
          <BackupTable
            rows={vm.backups.map((backup) => ({
              ...backup,
              vmName: vm.name,
              of: backup.scheduled ? 'by its schedule' : 'by a person',
            }))}
            ofWhat="Made"
            hosts={hosts}
            refresh={refresh}
          />
          <Text size="sm" c="dimmed" mt="xs">
            {places.map((each, index) => (
              <span key={each}>
                {index === 0 ? 'All that is in ' : '; in '}
                <Link to="/backups" search={{ in: each }} className="mono">
                  {each}
                </Link>
              </span>
            ))}
            , also of VMs that are gone.
          </Text>
        </>
      )}
    </Panel>
  );
}

function Scheduled({ vm }: { vm: VmData }) {
  const schedule = vm.backupSchedule;
  if (!schedule) return null;
  const { cron, to, keep, fullEvery, nextAt, lastAt, askedBy } = schedule;
  return (
    <dl className="facts" style={{ marginBottom: '0.8rem' }}>
      <dt>By itself</dt>
      <dd>
        at <span className="mono">{cron}</span> to <span className="mono">{to}</span>
        <div className="dim">
          It keeps the newest {keep} and what those are based on;{' '}
          {fullEvery === 1 ? 'each is full' : `one in ${fullEvery} is full, the others incremental`}. Asked by {askedBy}
          .
        </div>
      </dd>
      <dt>Next</dt>
      <dd>
        {nextAt ? <At at={nextAt} withDate /> : <span className="dim">none is due</span>}
        {lastAt && (
          <span className="dim">
            , the last was begun <Ago at={lastAt} />
          </span>
        )}
      </dd>
    </dl>
  );
}

function BackUp({ vm, place, done }: { vm: VmData; place: string | undefined; done: () => void }) {
  const [to, setTo] = useState('');
  const [incremental, setIncremental] = useState(false);
  const act = useAct(BACK_UP, done);
  return (
    <FormButton
      label="Back up now"
      icon={<Archive size={14} />}
      title={`Back up ${vm.name}`}
      act={act}
      input={{ vm: vm.id, to: to.trim(), incremental }}
      done={`A backup of ${vm.name} is being made.`}
      submit="Back up"
      ready={to.trim() !== ''}
      reset={() => {
        setTo(place ?? '');
        setIncremental(vm.backups.length > 0);
      }}
      note="It runs on meanwhile. What its guest has not written to its disks by then is not in it, as after a power cut."
    >
      <TextField
        act={act}
        field="to"
        label="To"
        description={PLACE}
        value={to}
        change={setTo}
        data-autofocus
        required
      />
      <Checkbox
        label="Incremental: only what was written since its last one there"
        description="Where that is not known it is a full one, and says why"
        checked={incremental}
        onChange={(event) => setIncremental(event.currentTarget.checked)}
      />
    </FormButton>
  );
}

function Schedule({ vm, place, done }: { vm: VmData; place: string | undefined; done: () => void }) {
  const set = vm.backupSchedule;
  const [cron, setCron] = useState('');
  const [to, setTo] = useState('');
  const [keep, setKeep] = useState<number | string>(7);
  const [fullEvery, setFullEvery] = useState<number | string>(1);
  const act = useAct(SCHEDULE, done);
  const whole = (value: number | string) => (typeof value === 'number' ? value : undefined);
  return (
    <FormButton
      label={set ? 'Change the schedule' : 'Make a schedule'}
      icon={<CalendarClock size={14} />}
      title={`Backups that ${vm.name} makes by itself`}
      act={act}
      input={{ vm: vm.id, cron: cron.trim(), to: to.trim(), keep: whole(keep), fullEvery: whole(fullEvery) }}
      done={`${vm.name} backs itself up.`}
      submit={set ? 'Change it' : 'Make it'}
      ready={cron.trim() !== '' && to.trim() !== ''}
      reset={() => {
        setCron(set?.cron ?? '0 3 * * *');
        setTo(place ?? '');
        setKeep(set?.keep ?? 7);
        setFullEvery(set?.fullEvery ?? 1);
      }}
      note={
        <>
          One that was missed is made as soon as it can be. It keeps{' '}
          {typeof keep === 'number' ? `the newest ${many(keep, 'backup')} that it made itself` : 'its newest backups'}{' '}
          and what those are based on; what a person asked for is never removed.
        </>
      }
    >
      <TextField
        act={act}
        field="cron"
        label="When"
        description="Minute, hour, day, month, weekday, in UTC; or with a time zone behind them, such as Europe/Berlin"
        value={cron}
        change={setCron}
        data-autofocus
        required
      />
      <TextField
        act={act}
        field="to"
        label="To"
        description="A directory that is there on each node that may hold its host; or s3://BUCKET/PREFIX"
        value={to}
        change={setTo}
        required
      />
      <Group grow align="flex-start">
        <NumberInput label="Keep" min={1} value={keep} onChange={setKeep} error={wrong(act, 'keep')} />
        <NumberInput
          label="One in so many is full"
          min={1}
          max={16}
          value={fullEvery}
          onChange={setFullEvery}
          error={wrong(act, 'fullEvery')}
        />
      </Group>
    </FormButton>
  );
}
