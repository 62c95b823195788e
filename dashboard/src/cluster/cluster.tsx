// The nodes and what holds them together: leader and term, leases, links, the ledger, versions, certificates.
import { Button, Code, Group, Modal, Stack, Text } from '@mantine/core';
import { Link } from '@tanstack/react-router';
import { KeyRound, LogOut, Trash2, Undo2 } from 'lucide-react';
import { useState } from 'react';
import { graphql, type ResultOf } from '../live/graphql';
import { useLive } from '../live/use_live';
import { ActButton, ConfirmButton, useAct } from '../ui/act';
import { bytes, count } from '../ui/figures';
import { CopyKey, copy, shortKey } from '../ui/key';
import { Freshness, PageHead, Panel, ProblemNote, Shown } from '../ui/shown';
import { State } from '../ui/state';
import { Tile } from '../ui/tile';
import { Ago, At, duration, useNow } from '../ui/time';

const CLUSTER = graphql(`
  query Cluster {
    cluster {
      term cursor viewLag disk noQuorum changing
      leader { id }
      voters { id }
      nodes {
        id address status leader voter generation version zone cores entities loadAverage residentBytes cursor viewLag
        leaseLeftMs clockOffsetMs certificateUntil suspected why
        labels { key value }
        drain { since until entitiesAtStart entitiesLeft }
        links { peer lane up since whyDown roundTripUs queuedBytes clockOffsetMs }
      }
    }
  }
`);
const DRAIN = graphql(`mutation DrainNode($input: DrainNodeInput!) { drainNode(input: $input) { cursor } }`);
const REMOVE = graphql(`mutation RemoveNode($input: RemoveNodeInput!) { removeNode(input: $input) { cursor } }`);
const TOKEN = graphql(
  `mutation CreateJoinToken($input: CreateJoinTokenInput!) { createJoinToken(input: $input) { token } }`,
);

type ClusterData = ResultOf<typeof CLUSTER>['cluster'];
type ClusterNode = ClusterData['nodes'][number];

export function Cluster() {
  // Leases, loads and round trips are told by no event.
  const live = useLive(CLUSTER, {}, { touches: (event) => event.kind.startsWith('Node'), everyMs: 2_000 });
  return (
    <div className="page">
      <PageHead title="Cluster">
        <Freshness live={live} />
        <JoinToken />
      </PageHead>
      <Shown live={live}>
        {({ cluster }) => (
          <>
            {cluster.noQuorum && (
              <div role="alert" className="tone-bad" style={{ borderRadius: 8, padding: '0.6rem 0.9rem' }}>
                <strong>No write can be agreed on now.</strong> {cluster.noQuorum}
              </div>
            )}
            <div className="tiles" data-stale={live.stale ? 'true' : undefined}>
              <Tile
                label="Nodes"
                value={count(cluster.nodes.length)}
                note={`${cluster.voters.length} vote, ${Math.floor((cluster.voters.length - 1) / 2)} may be lost`}
              />
              <Tile
                label="Leader"
                value={
                  <span className="mono" style={{ fontSize: '1.05rem' }}>
                    {cluster.leader ? shortKey(cluster.leader.id).replace('node…', '…') : 'none now'}
                  </span>
                }
                note={`term ${cluster.term}${cluster.changing ? ', voters are changing' : ''}`}
              />
              <Tile label="Ledger" value={count(Number(cluster.cursor))} note="events, its cursor" />
              <Tile label="Views behind" value={count(cluster.viewLag)} note="events, on this node" />
              <Tile
                label="Disk"
                value={
                  <span style={{ fontSize: '1.05rem' }} className="wrap">
                    {cluster.disk}
                  </span>
                }
                note="of the ledger"
              />
            </div>
            <div className="node-grid">
              {cluster.nodes.map((node) => (
                <NodeCard key={node.id} node={node} refresh={live.refresh} stale={live.stale} />
              ))}
            </div>
            {cluster.nodes.some((node) => node.links.length > 0) && (
              <Panel title="Links" live={live}>
                <Links nodes={cluster.nodes} />
              </Panel>
            )}
          </>
        )}
      </Shown>
    </div>
  );
}

function NodeCard({ node, refresh, stale }: { node: ClusterNode; refresh: () => void; stale: boolean }) {
  const now = useNow();
  const drain = useAct(DRAIN, refresh);
  const remove = useAct(REMOVE, refresh);
  const certificate = node.certificateUntil ? Date.parse(node.certificateUntil) - now : undefined;
  const up = node.status === 'UP';
  return (
    <section className="card" aria-label={`Node ${node.id}`} data-stale={stale ? 'true' : undefined}>
      <Group justify="space-between" gap="xs" mb={4}>
        <Group gap="xs">
          <State status={node.status} as={node.suspected ? 'warn' : undefined} />
          <Text fw={600} component="span">
            {node.leader ? 'leader' : node.voter ? 'voter' : 'learner'}
          </Text>
        </Group>
        <Text size="sm" className="mono" component="span">
          {node.address}
        </Text>
      </Group>
      <CopyKey id={node.id} />
      {(node.why ?? node.suspected) && (
        <Text size="sm" className="wrap" style={{ color: node.why ? 'var(--bad)' : 'var(--warn)' }} my={4}>
          {node.why ?? node.suspected}
        </Text>
      )}
      {node.drain && (
        <div style={{ margin: '0.5rem 0' }}>
          <Text size="sm">
            {node.drain.entitiesLeft} of {node.drain.entitiesAtStart} are still here; what is left at{' '}
            <At at={node.drain.until} /> is stopped
          </Text>
          <progress
            max={Math.max(1, node.drain.entitiesAtStart)}
            value={node.drain.entitiesAtStart - node.drain.entitiesLeft}
            style={{ width: '100%' }}
            aria-label="Drained"
          />
        </div>
      )}
      <dl className="facts shown" style={{ marginTop: 8 }}>
        <dt>Holds</dt>
        <dd className="num">
          {node.entities} agents and coordinators ·{' '}
          <Link to="/tree" search={{ node: node.id }}>
            tree
          </Link>
        </dd>
        <dt>Load</dt>
        <dd className="num">
          {node.loadAverage === null ? (
            <span className="dim">not known</span>
          ) : (
            `${node.loadAverage.toFixed(2)} over ${node.cores} cores`
          )}
          {node.residentBytes !== null && `, ${bytes(node.residentBytes)} resident`}
        </dd>
        <dt>Lease</dt>
        <dd className="num">
          {node.leaseLeftMs === null ? <span className="dim">not known</span> : `${duration(node.leaseLeftMs)} left`}
        </dd>
        <dt>Ledger</dt>
        <dd className="num">
          {node.cursor === null ? <span className="dim">not known</span> : `at ${node.cursor}`}
          {node.viewLag !== null && `, views ${node.viewLag} behind`}
        </dd>
        {node.clockOffsetMs !== null && (
          <>
            <dt>Clock</dt>
            <dd className="num">{node.clockOffsetMs.toFixed(1)} ms ahead of this one</dd>
          </>
        )}
        <dt>Version</dt>
        <dd>
          {node.version ?? <span className="dim">not known</span>}
          {node.generation !== null && <span className="dim">, start {node.generation}</span>}
        </dd>
        {node.certificateUntil && (
          <>
            <dt>Certificate</dt>
            <dd style={certificate !== undefined && certificate < 7 * 86_400_000 ? { color: 'var(--bad)' } : undefined}>
              good until <At at={node.certificateUntil} withDate />
              {certificate !== undefined && ` (${certificate > 0 ? duration(certificate) : 'over'})`}
            </dd>
          </>
        )}
        {(node.zone || node.labels.length > 0) && (
          <>
            <dt>Labels</dt>
            <dd className="mono">
              {node.zone && `zone=${node.zone} `}
              {node.labels.map(({ key, value }) => `${key}=${value}`).join(' ')}
            </dd>
          </>
        )}
      </dl>
      <Group gap="xs" mt="sm">
        {up && (
          <ConfirmButton
            act={drain}
            input={{ node: node.id }}
            done="The node is being drained."
            title="Drain this node?"
            consequence={`What it holds, ${node.entities} agents and coordinators, finishes or moves to other nodes within ten minutes; what is left then is stopped. It takes nothing new.`}
            confirm="Drain"
            size="compact-sm"
            leftSection={<LogOut size={13} />}
          >
            Drain
          </ConfirmButton>
        )}
        {(node.status === 'DRAINING' || node.status === 'DRAINED') && (
          <ActButton
            act={drain}
            input={{ node: node.id, cancel: true }}
            done="The node takes entities again."
            size="compact-sm"
            leftSection={<Undo2 size={13} />}
          >
            {node.status === 'DRAINING' ? 'Cancel the drain' : 'Take entities again'}
          </ActButton>
        )}
        {(node.status === 'DRAINED' || node.status === 'LOST') && (
          <ConfirmButton
            act={remove}
            input={{ node: node.id }}
            done="The node is removed."
            title="Remove this node for good?"
            consequence="Its certificate is voided: it can come back only as a new node, with a new token."
            confirm="Remove"
            size="compact-sm"
            leftSection={<Trash2 size={13} />}
          >
            Remove
          </ConfirmButton>
        )}
      </Group>
    </section>
  );
}

function Links({ nodes }: { nodes: readonly ClusterNode[] }) {
  return (
    <div className="scroll-x">
      <table className="plain" style={{ minWidth: 620 }}>
        <thead>
          <tr>
            <th>From</th>
            <th>To</th>
            <th>Lane</th>
            <th>State</th>
            <th>Round trip</th>
            <th>Queued</th>
            <th>Since</th>
          </tr>
        </thead>
        <tbody>
          {nodes.flatMap((node) =>
            node.links.map((link) => (
              <tr key={`${node.id}${link.peer}${link.lane}`}>
                <td className="mono">{shortKey(node.id)}</td>
                <td className="mono">{shortKey(link.peer)}</td>
                <td>{link.lane}</td>
                <td>
                  {link.up ? <State status="UP" /> : <span className="state tone-bad">down</span>}
                  {link.whyDown && <span className="dim wrap"> {link.whyDown}</span>}
                </td>
                <td className="num">
                  {link.roundTripUs === null ? <span className="dim">–</span> : duration(link.roundTripUs / 1_000)}
                </td>
                <td className="num">{bytes(link.queuedBytes)}</td>
                <td>
                  <Ago at={link.since} />
                </td>
              </tr>
            )),
          )}
        </tbody>
      </table>
    </div>
  );
}

function JoinToken() {
  const [token, setToken] = useState<string>();
  const [open, setOpen] = useState(false);
  const act = useAct(TOKEN, (data) => setToken(data.createJoinToken.token));
  const close = () => {
    setOpen(false);
    setToken(undefined);
    act.clear();
  };
  return (
    <>
      <Button size="xs" variant="default" leftSection={<KeyRound size={14} />} onClick={() => setOpen(true)}>
        Add a node
      </Button>
      <Modal opened={open} onClose={close} title="Add a node" size="lg">
        <Stack>
          {token ? (
            <>
              <Text size="sm">On the new host. The token lets one node in, within a day, and is not shown again:</Text>
              <Code
                block
                style={{ overflowWrap: 'anywhere', whiteSpace: 'pre-wrap' }}
              >{`hiveward up --join ${location.hostname}:7701 --token ${token}`}</Code>
              <Text size="sm" c="dimmed">
                The port is this cluster’s, 7701 unless configured otherwise; each node’s address is on this page.
              </Text>
              <Group justify="flex-end">
                <Button variant="default" onClick={() => void copy(token)}>
                  Copy the token
                </Button>
                <Button onClick={close}>Done</Button>
              </Group>
            </>
          ) : (
            <>
              <Text size="sm">
                A new token is made, good for one node within a day. Who has it can add a node to this cluster, which
                then holds agents and their work.
              </Text>
              {act.problem && <ProblemNote problem={act.problem} />}
              <Group justify="flex-end">
                <Button variant="default" onClick={close}>
                  Not now
                </Button>
                <Button loading={act.running} onClick={() => act.run({})}>
                  Make a token
                </Button>
              </Group>
            </>
          )}
        </Stack>
      </Modal>
    </>
  );
}
