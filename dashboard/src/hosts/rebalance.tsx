// Making hosts more even: what would be moved and why, what would come of it, doing it, and how it goes.
import { Button, Group, Modal, NativeSelect, NumberInput, Stack, Text } from '@mantine/core';
import { getRouteApi, Link } from '@tanstack/react-router';
import { Scale, Undo2 } from 'lucide-react';
import { useState } from 'react';
import type { RebalanceSearch } from '../app/router';
import { graphql, type ResultOf } from '../live/graphql';
import { useLive } from '../live/use_live';
import { ConfirmButton, useAct } from '../ui/act';
import { bytes, count, many } from '../ui/figures';
import { KeyLink } from '../ui/key';
import { Empty, Freshness, PageHead, Panel, Shown } from '../ui/shown';
import { State } from '../ui/state';
import { Tile } from '../ui/tile';
import { At, duration } from '../ui/time';
import { toast } from '../ui/toast';
import { percent, step } from './heat';
import { callOff, Moves, useMoving } from './moves';
import { touchesFleet } from './query';

const PLAN = graphql(`
  query RebalancePlan($rules: BalanceRulesInput) {
    rebalancePlan(rules: $rules) {
      at basis due why heldMs imbalance imbalanceAfter mean
      moves { vm vmName from fromName to toName reason gain cost copyBytes copyMs waits }
      forecast { host name before { load cpu memory } after { load cpu memory } }
      stay { reason vms }
      apart { host name reason }
    }
  }
`);
const RUN = graphql(`
  mutation Rebalance($input: RebalanceInput!) {
    rebalance(input: $input) { begun { vm vmName from to operation refused } cursor }
  }
`);

type Plan = ResultOf<typeof PLAN>['rebalancePlan'];
type Begun = ResultOf<typeof RUN>['rebalance']['begun'];

/** What is used changes without an event. */
const EVERY_MS = 15_000;
const PACE_MS = 1_000;
const USUAL = { threshold: 10, hold: 5 };

/** A difference of shares of a host. */
function points(value: number, places = 0): string {
  return `${(value * 100).toFixed(places)} points`;
}

const route = getRouteApi('/rebalance');

export function Rebalance() {
  const search = route.useSearch();
  const rules = {
    basis: search.basis ?? 'RESERVED',
    threshold: (search.threshold ?? USUAL.threshold) / 100,
    holdMs: Math.round((search.hold ?? USUAL.hold) * 60_000),
  } as const;
  const live = useLive(PLAN, { rules }, { touches: touchesFleet, everyMs: EVERY_MS, paceMs: PACE_MS });
  const moving = useMoving();
  const [begun, setBegun] = useState<Begun>();
  const run = useAct(RUN, ({ rebalance }) => {
    setBegun(rebalance.begun);
    live.refresh();
    moving.refresh();
  });
  const plan = live.data?.rebalancePlan;
  return (
    <div className="page">
      <PageHead
        title="Rebalance"
        note={
          <>
            Which VMs would move to make hosts more even, while they run. Looking at it changes nothing.{' '}
            <Link to="/hosts">Hosts and VMs</Link>
          </>
        }
      >
        <Freshness live={live} />
        {moving.rows.length > 0 && <CallOff moving={moving} />}
        {plan && plan.moves.length > 0 && (
          <ConfirmButton
            act={run}
            input={{ rules }}
            done="The moves have been asked for."
            title={`Move ${many(plan.moves.length, 'VM')}?`}
            consequence={<Consequence plan={plan} />}
            confirm="Move them"
            leftSection={<Scale size={14} />}
            disabled={!plan.due}
          >
            Rebalance now
          </ConfirmButton>
        )}
      </PageHead>
      <Rules search={search} />
      <Moves moving={moving} />
      {begun && <Asked begun={begun} close={() => setBegun(undefined)} />}
      <Shown live={live} rows={6}>
        {({ rebalancePlan }) => <Planned plan={rebalancePlan} live={live} />}
      </Shown>
    </div>
  );
}

function Consequence({ plan }: { plan: Plan }) {
  const later = plan.moves.filter(({ waits }) => waits).length;
  return (
    <>
      VMs move while they run, a few from each host at a time. About{' '}
      {bytes(plan.moves.reduce((all, { copyBytes }) => all + copyBytes, 0))} are copied. The fullest host is then{' '}
      {points(plan.imbalanceAfter)} above the mean instead of {points(plan.imbalance)}.
      {later > 0 &&
        ` ${later === 1 ? 'One needs' : `${count(later)} need`} room that another frees first: they are planned again afterwards.`}{' '}
      The plan is made again at that moment, and what is not worth it any more is left out.
    </>
  );
}

function Rules({ search }: { search: RebalanceSearch }) {
  const navigate = route.useNavigate();
  const change = (next: Partial<RebalanceSearch>) =>
    void navigate({ search: (before) => ({ ...before, ...next }), replace: true });
  const number = (value: number | string, usual: number) =>
    typeof value === 'number' && value !== usual ? value : undefined;
  return (
    <div className="card">
      <Group align="flex-end" gap="md">
        <NativeSelect
          label="How full a host is"
          value={search.basis ?? 'RESERVED'}
          onChange={({ currentTarget: { value } }) => change({ basis: value === 'USED' ? 'USED' : undefined })}
          data={[
            { value: 'RESERVED', label: 'by what its VMs were made with' },
            { value: 'USED', label: 'by what they were measured to use' },
          ]}
        />
        <NumberInput
          label="Too far above the mean"
          suffix=" points"
          min={0}
          max={100}
          value={search.threshold ?? USUAL.threshold}
          onChange={(value) => change({ threshold: number(value, USUAL.threshold) })}
          w={200}
        />
        <NumberInput
          label="For at least"
          suffix=" min"
          min={0}
          max={360}
          value={search.hold ?? USUAL.hold}
          onChange={(value) => change({ hold: number(value, USUAL.hold) })}
          w={120}
        />
      </Group>
    </div>
  );
}

function Planned({ plan, live }: { plan: Plan; live: { stale: boolean; at: number } }) {
  const copied = plan.moves.reduce((all, { copyBytes }) => all + copyBytes, 0);
  return (
    <>
      <div className="tiles" data-stale={live.stale ? 'true' : undefined}>
        <Tile
          label="All hosts as if one"
          value={percent(plan.mean)}
          note="full, which each would be if all were even"
        />
        <Tile
          label="The fullest is above that by"
          value={points(plan.imbalance)}
          note={plan.heldMs > 0 ? `too much for ${duration(plan.heldMs).replace(/ 0 s$/, '')}` : 'of a hundred'}
        />
        <Tile
          label="After all moves by"
          value={points(plan.imbalanceAfter)}
          note={plan.moves.length === 0 ? 'nothing would move' : many(plan.moves.length, 'move')}
        />
        <Tile label="To copy" value={bytes(copied)} note="memory and disks that are not shared" />
      </div>
      {plan.why && (
        <div className="card" role="status">
          <Text size="sm">
            {plan.moves.length > 0 ? <strong>They may not begin yet: </strong> : <strong>Nothing is due: </strong>}
            {plan.why}.
          </Text>
        </div>
      )}
      <Panel title="Moves" live={live}>
        {plan.moves.length === 0 ? (
          <Empty title="Nothing would move">
            A move is planned where it makes the fuller of two hosts less full by more than its copy costs.
          </Empty>
        ) : (
          <PlannedMoves moves={plan.moves} />
        )}
        <Left plan={plan} />
      </Panel>
      <Panel title="How full hosts are, and would be" live={live}>
        <Forecast plan={plan} />
      </Panel>
      <Text size="xs" c="dimmed">
        Planned at <At at={plan.at} />.
      </Text>
    </>
  );
}

function PlannedMoves({ moves }: { moves: Plan['moves'] }) {
  return (
    <section className="scroll-x" tabIndex={0} aria-label="Planned moves">
      <table className="plain">
        <thead>
          <tr>
            <th>VM</th>
            <th>From</th>
            <th>To</th>
            <th>Gain</th>
            <th>Cost</th>
            <th>Copy</th>
            <th>Why</th>
          </tr>
        </thead>
        <tbody>
          {moves.map((move) => (
            <tr key={move.vm}>
              <td style={{ whiteSpace: 'nowrap' }}>
                <KeyLink id={move.vm} name={move.vmName} />
              </td>
              <td style={{ whiteSpace: 'nowrap' }}>
                <KeyLink id={move.from} name={move.fromName} />
              </td>
              <td style={{ whiteSpace: 'nowrap' }}>
                <KeyLink id={move.to} name={move.toName} />
              </td>
              <td className="num" style={{ whiteSpace: 'nowrap' }}>
                {points(move.gain, 1)}
              </td>
              <td className="num" style={{ whiteSpace: 'nowrap' }}>
                {points(move.cost, 2)}
              </td>
              <td className="num" style={{ whiteSpace: 'nowrap' }}>
                {bytes(move.copyBytes)}, about {duration(move.copyMs)}
              </td>
              <td style={{ minWidth: '16rem' }}>
                {move.reason}
                {move.waits && (
                  <div style={{ color: 'var(--warn)' }}>It waits for room that a move before it frees.</div>
                )}
              </td>
            </tr>
          ))}
        </tbody>
      </table>
    </section>
  );
}

function Left({ plan }: { plan: Plan }) {
  if (plan.stay.length === 0 && plan.apart.length === 0) return null;
  return (
    <ul className="bare" style={{ fontSize: '0.88rem', marginTop: '0.7rem' }} aria-label="What stays">
      {plan.stay.map(({ reason, vms }) => (
        <li key={reason}>
          {many(vms, 'VM')} on hosts that are too full {vms === 1 ? 'stays' : 'stay'}: {reason}
        </li>
      ))}
      {plan.apart.map(({ host, name, reason }) => (
        <li key={host}>
          <KeyLink id={host} name={name} /> takes no part: it {reason}
        </li>
      ))}
    </ul>
  );
}

function Level({ value, label }: { value: number; label: string }) {
  return (
    <div className="level">
      <div className="gauge" aria-hidden>
        <span data-heat={step(value)} style={{ width: `${Math.min(1, value) * 100}%` }} />
      </div>
      <span className="num" title={label}>
        {percent(value)}
      </span>
    </div>
  );
}

function Forecast({ plan }: { plan: Plan }) {
  const sorted = [...plan.forecast].sort((one, other) => other.before.load - one.before.load);
  if (sorted.length === 0) return <Empty title="No host takes part" />;
  return (
    <section className="scroll-x" tabIndex={0} aria-label="How full hosts are">
      <table className="plain">
        <thead>
          <tr>
            <th>Host</th>
            <th>CPU</th>
            <th>Memory</th>
            <th style={{ width: '28%' }}>Now</th>
            <th style={{ width: '28%' }}>After all moves</th>
          </tr>
        </thead>
        <tbody>
          {sorted.map(({ host, name, before, after }) => (
            <tr key={host}>
              <td style={{ whiteSpace: 'nowrap' }}>
                <KeyLink id={host} name={name} />
              </td>
              <td className="num" style={{ whiteSpace: 'nowrap' }}>
                {percent(before.cpu)}
              </td>
              <td className="num" style={{ whiteSpace: 'nowrap' }}>
                {percent(before.memory)}
              </td>
              <td>
                <Level value={before.load} label={`${name} now`} />
              </td>
              <td>
                {after.load === before.load ? (
                  <span className="dim">the same</span>
                ) : (
                  <Level value={after.load} label={`${name} after all moves`} />
                )}
              </td>
            </tr>
          ))}
        </tbody>
      </table>
    </section>
  );
}

/** What was begun from this page, and what would not. */
function Asked({ begun, close }: { begun: Begun; close: () => void }) {
  const refused = begun.filter((each) => each.refused !== null);
  return (
    <div className="card" role="status">
      <Group justify="space-between" gap="sm" align="flex-start">
        <div style={{ minWidth: 0, flex: 1 }}>
          <Text size="sm">
            {begun.length === 0
              ? 'Nothing was due any more when it was asked for: nothing moves.'
              : `${many(begun.length - refused.length, 'move')} asked for:`}
          </Text>
          <ul className="bare" style={{ fontSize: '0.88rem' }}>
            {begun.map((each) => (
              <li key={each.vm}>
                <KeyLink id={each.vm} name={each.vmName} />{' '}
                {each.refused === null ? (
                  <span className="dim">operation {each.operation}</span>
                ) : (
                  <>
                    <State status="REFUSED" as="bad" /> {each.refused}
                  </>
                )}
              </li>
            ))}
          </ul>
        </div>
        <Button size="compact-sm" variant="default" onClick={close}>
          Close
        </Button>
      </Group>
    </div>
  );
}

function CallOff({ moving }: { moving: ReturnType<typeof useMoving> }) {
  const [asking, setAsking] = useState(false);
  const [running, setRunning] = useState(false);
  const [problems, setProblems] = useState<string[]>([]);
  const close = () => {
    setAsking(false);
    setProblems([]);
  };
  const end = async () => {
    setRunning(true);
    const found = await callOff(moving.rows);
    setRunning(false);
    setProblems(found);
    moving.refresh();
    if (found.length > 0) return;
    toast('All moves are called off.');
    close();
  };
  return (
    <>
      <Button size="xs" variant="default" leftSection={<Undo2 size={14} />} onClick={() => setAsking(true)}>
        Call all moves off
      </Button>
      <Modal opened={asking} onClose={close} title="Call all moves off?">
        <Stack>
          <Text size="sm">
            Every migration that is under way ends, also those that were not asked for here, and those VMs run on where
            they are. One that runs on its new host already stays there.
          </Text>
          {problems.length > 0 && (
            <div role="alert" className="tone-bad" style={{ borderRadius: 8, padding: '0.6rem 0.8rem' }}>
              <ul className="bare" style={{ fontSize: '0.88rem' }}>
                {problems.map((problem) => (
                  <li key={problem}>{problem}</li>
                ))}
              </ul>
            </div>
          )}
          <Group justify="flex-end">
            <Button variant="default" onClick={close} data-autofocus>
              Keep as it is
            </Button>
            <Button color="red.9" loading={running} onClick={() => void end()}>
              Call them off
            </Button>
          </Group>
        </Stack>
      </Modal>
    </>
  );
}
