// A hive with something of everything in it: swarms, agents of several kinds, tasks in every state, a question, a terminal.
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { Node, until } from './node.mjs';

/** Claude Code as the repository's other tests run it; installed by npm if it is not yet. */
export function claude() {
  if (process.env.DASHBOARD_CLAUDE) return process.env.DASHBOARD_CLAUDE;
  const place = new URL('../../../tests/agents', import.meta.url).pathname;
  const program = join(place, 'node_modules/.bin/claude');
  if (!existsSync(program)) execFileSync('npm', ['ci', '--no-audit', '--no-fund'], { cwd: place, stdio: 'inherit' });
  return program;
}

export async function scene() {
  // Installed, if it must be, before anything waits for an answer.
  claude();
  const node = await Node.start({ args: ['--scripted-model'] });
  try {
    return await filled(node);
  } catch (error) {
    await node.stop();
    throw error;
  }
}

/** Hosts of a simulated hypervisor, and VMs on them: full ones, empty ones, one that fails, one that is drained. */
async function fleet(hive) {
  const { node } = hive;
  const hosts = [
    ['rack-1', '?cpus=8&memoryGiB=32', 'a'],
    ['rack-2', '?cpus=16&memoryGiB=64&busyPercent=55', 'a'],
    ['rack-3', '?cpus=8&memoryGiB=16', 'b'],
    ['rack-4', '?cpus=32&memoryGiB=128&busyPercent=30', 'b'],
  ];
  hive.host = {};
  for (const [index, [name, manners, zone]] of hosts.entries()) {
    const underlay = `192.168.7.${index + 1}`;
    const uri = `simulated://${name}${manners}`;
    await node.cli('host', 'add', uri, '--name', name, '--zone', zone, '--underlay', underlay);
  }
  const network = (name, kind, ...more) => node.cli('network', 'create', name, '--kind', kind, ...more);
  await network('red', 'overlay', '--cidr', '10.7.0.0/24');
  await network('lan', 'nat', '--cidr', '10.8.0.0/24');
  await network('lab', 'isolated');
  await network('office', 'bridge', '--bridge', 'br0');
  const vm = (name, host, cpus, memory, image = 'debian-12', ...more) =>
    node.cli(
      'vm',
      'create',
      name,
      '--image',
      image,
      '--cpus',
      `${cpus}`,
      '--memory',
      `${memory}GiB`,
      '--on',
      host,
      ...more,
    );
  await vm('db-1', 'rack-1', 8, 24, 'debian-12', '--disk', '20GiB', '--network', 'red');
  for (let n = 1; n <= 3; n += 1) await vm(`web-${n}`, 'rack-2', 4, 4, 'debian-12', '--network', 'red');
  await vm('build-1', 'rack-3', 4, 15);
  await vm('spare', 'rack-4', 2, 4, 'debian-12', '--no-start');
  const placed = ['vm', 'create', 'placed', '--image', 'debian-12', '--cpus', '2', '--memory', '2GiB', '--ha'];
  await node.cli(...placed, '--network', 'red', '--network', 'lan');
  await vm('broken', 'rack-2', 1, 1, 'missing').catch(() => {});
  await node.cli('vm', 'pause', 'web-3');
  await node.cli('host', 'drain', 'rack-3');
  hive.backups = join(node.dir, 'backups');
  mkdirSync(hive.backups);
  for (const incremental of [[], ['--incremental'], ['--incremental']])
    await node.cli('vm', 'backup', 'placed', '--to', hive.backups, ...incremental);
  await node.cli('vm', 'backup', 'db-1', '--to', hive.backups, '--incremental');
  const nightly = ['--cron', '0 3 * * *', '--to', hive.backups, '--keep', '14', '--full-every', '7'];
  await node.cli('vm', 'backup-schedule', 'placed', ...nightly);
  const found = await node.ask('{hosts{nodes{id name}} vms{nodes{id name}} networks{nodes{id name}}}');
  hive.host = Object.fromEntries(found.hosts.nodes.map(({ id, name }) => [name, id]));
  hive.vm = Object.fromEntries(found.vms.nodes.map(({ id, name }) => [name, id]));
  hive.network = Object.fromEntries(found.networks.nodes.map(({ id, name }) => [name, id]));
}

async function filled(node) {
  const hive = { node };
  await node.cli('swarm', 'create', 'builders', '-q');
  await node.cli('swarm', 'create', 'fleet', '-q');
  for (let number = 1; number <= 6; number += 1) {
    await node.agent({
      name: `builder-${number}`,
      swarm: 'builders',
      skills: [{ name: 'build', proficiency: 0.4 + number / 10 }],
    });
  }
  const scale = 'mutation($i:ScaleSwarmInput!){scaleSwarm(input:$i){cursor}}';
  await node.ask(scale, { i: { swarm: 'fleet', agents: 60, template: { name: 'fleet', connector: { noop: true } } } });
  hive.coder = await node.agent({
    name: 'coder',
    connector: { claudeCode: { argv: [claude()], policy: { rules: [{ tool: 'Write', decision: 'ASK' }] } } },
  });
  hive.shell = await node.agent({ name: 'shell', session: { kind: 'PTY' } });

  // biome-ignore lint/suspicious/noTemplateCurlyInString: the shell's own
  const building = 'for n in 1 2 3 4 5 6; do printf "\\033[3${n}mstep $n\\033[0m of $0\\n"; done';
  for (let part = 1; part <= 8; part += 1) {
    await node.submit({
      swarm: 'builders',
      title: `Build part ${part}`,
      skills: ['build'],
      command: { argv: ['sh', '-c', building, `part ${part}`] },
    });
  }
  const [one] = await node
    .cli('agent', 'list', '-o', 'json')
    .then((text) => JSON.parse(text).filter(({ name }) => name === 'command-1'));
  hive.worker = one.id;
  hive.dead = await node.shell('Deploy to staging', 'echo connecting; echo "connection refused" >&2; exit 7', {
    agent: one.id,
    retry: { maxAttempts: 3, firstMs: 100, factor: 1, jitter: 0 },
  });
  hive.gated = await node.shell('Summarise the audit', 'echo "no findings"', {
    agent: one.id,
    retry: { maxAttempts: 1 },
    gate: {
      name: 'covers-every-file',
      retriable: false,
      command: { argv: ['sh', '-c', 'echo "3 files are missing" >&2; exit 1'] },
    },
  });
  await node.ended(hive.dead, 'DEAD');
  await until('the gate failed it', async () => {
    const { node: found } = await node.ask('query($t:ID!){node(id:$t){... on Task{status}}}', { t: hive.gated });
    return ['FAILED', 'DEAD'].includes(found.status);
  });
  hive.coding = await node.submit({
    agent: hive.coder,
    title: 'Write the release notes',
    kind: 'prompt',
    payload: 'Please write the file notes.txt',
  });
  hive.terminal = await node.submit({
    agent: hive.shell,
    title: 'A shell to look around',
    command: { argv: ['bash', '--norc'] },
  });
  hive.long = await node.shell(
    'Watch the queue',
    'i=0; while true; do i=$((i+1)); printf "\\033[32mok\\033[0m  checked %d queues\\n" $i; sleep 0.5; done',
    { agent: one.id },
  );
  const lint = await node.shell('Lint', 'sleep 0.2', { swarm: 'builders' });
  const test = await node.shell('Test', 'sleep 600', { swarm: 'builders' });
  hive.release = await node.shell('Release', 'true', {
    swarm: 'builders',
    dependsOn: [lint, test],
    labels: [{ key: 'team', value: 'core' }],
  });
  hive.scatter = await node
    .ask('mutation($i:ScatterInput!){scatter(input:$i){task{id}}}', {
      i: {
        swarm: 'builders',
        title: 'Count lines',
        items: ['runtime', 'actors', 'gateway', 'dashboard'],
        part: { command: { argv: ['sh', '-c', 'echo $HIVEWARD_ITEM'] } },
      },
    })
    .then(({ scatter }) => scatter.task.id);
  await node.ended(hive.scatter, 'SUCCEEDED');
  await until(
    'its program asks',
    async () => {
      const { approvals } = await node.ask('{approvals(filter:{status:[OPEN]}){nodes{id}}}');
      return approvals.nodes.length > 0;
    },
    60_000,
  );
  await until('its terminal is there', async () => {
    const { node: task } = await node.ask('query($t:ID!){node(id:$t){... on Task{status}}}', { t: hive.terminal });
    return task.status === 'RUNNING';
  });
  await node.ask('mutation($i:SetBudgetInput!){setBudget(input:$i){cursor}}', {
    i: { swarm: 'default', tokens: 400_000, warnPercent: 4 },
  });
  await fleet(hive);
  const { swarms } = await node.ask('{swarms{nodes{id name}}}');
  hive.swarm = Object.fromEntries(swarms.nodes.map(({ id, name }) => [name, id]));
  return hive;
}
