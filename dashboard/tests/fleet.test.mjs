// What a person does with hosts and VMs beyond their life: networks, backups, sizes, copies, moves; against one real node with
// simulated hosts.
import assert from 'node:assert/strict';
import { appendFileSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, afterEach, before, beforeEach, describe, test } from 'node:test';
import { launch, open, panel, sound } from './support/browser.mjs';
import { Node, until } from './support/node.mjs';

describe('hosts and VMs', () => {
  let node;
  let browser;
  let page;
  let backups;
  before(async () => {
    backups = mkdtempSync(join(tmpdir(), 'hiveward-backups-'));
    [node, browser] = await Promise.all([Node.start(), launch()]);
    for (const n of [1, 2]) {
      const uri = `simulated://rack-${n}?cpus=8&memoryGiB=32&busyPercent=25`;
      await node.cli('host', 'add', uri, '--name', `rack-${n}`, '--underlay', `192.168.7.${n}`);
    }
  });
  after(async () => {
    await browser?.close();
    await node?.stop();
    rmSync(backups, { recursive: true, force: true });
  });
  beforeEach(async () => {
    page = await open(browser, node, { path: '/ui/metrics' });
  });
  afterEach(async () => {
    await sound(page, page.url());
    await page.context().close();
  });

  const made = async (name, ...more) => {
    const cpus = more.includes('--cpus') ? [] : ['--cpus', '1'];
    await node.cli('vm', 'create', name, '--image', 'debian-12', ...cpus, '--memory', '1GiB', ...more);
    const { vms } = await node.ask('query($n:String){vms(filter:{nameContains:$n}){nodes{id name}}}', { n: name });
    return vms.nodes.find((vm) => vm.name === name).id;
  };
  const dialog = () => page.getByRole('dialog');
  const answer = (name) => dialog().getByRole('button', { name, exact: true }).click();
  /** Of the page itself: till a dialog is gone, both of them may have such a button. */
  const press = async (name, within = page) => {
    await dialog().waitFor({ state: 'detached' });
    await within.getByRole('button', { name, exact: true }).click();
  };
  const goto = (path) => page.goto(`${node.url}/ui${path}`);

  test('a network is made with what is wrong named, a VM is put on it and taken off, and it is removed', async () => {
    const vm = await made('web', '--network', 'lan', '--on', 'rack-1');
    await goto('/networks');
    await page.getByText('There are no networks').waitFor();
    await press('Make a network');
    await dialog().getByLabel('Name').fill('red');
    await dialog().getByLabel('Range').fill('10.7.0.0/99');
    await answer('Make it');
    await dialog().getByRole('alert').filter({ hasText: 'Field: cidr' }).waitFor();
    await dialog().getByLabel('Range').fill('10.7.0.0/24');
    await answer('Make it');
    const row = page.getByRole('region', { name: 'Networks' }).getByRole('row').filter({ hasText: 'red' });
    await row.filter({ hasText: 'overlay' }).filter({ hasText: '10.7.0.0/24' }).filter({ hasText: 'VXLAN' }).waitFor();

    await goto(`/vms/${vm}`);
    await press('Put it on one', panel(page, 'Networks'));
    await dialog().getByLabel('Network').selectOption('red');
    await answer('Put it on');
    const card = panel(page, 'Networks').getByRole('row').filter({ hasText: 'red' });
    const { node: found } = await until('it has an address', async () => {
      const answer = await node.ask('query($v:ID!){node(id:$v){... on Vm{networkAddresses{address mac}}}}', { v: vm });
      return answer.node.networkAddresses.length === 1 && answer;
    });
    const [{ address, mac }] = found.networkAddresses;
    await card.filter({ hasText: address }).filter({ hasText: mac }).waitFor();

    await card.getByRole('link', { name: 'red' }).click();
    await page.getByRole('heading', { name: 'VMs on it (1)' }).waitFor();
    const member = page.getByRole('region', { name: 'VMs on it' }).getByRole('row').filter({ hasText: 'web' });
    await member.filter({ hasText: address }).filter({ hasText: 'rack-1' }).waitFor();
    await press('Remove');
    await dialog().getByText('1 VM is on it: this is refused').waitFor();
    await answer('Remove');
    await dialog().getByRole('alert').waitFor();
    await answer('Keep as it is');
    // Live: somebody else takes it off.
    await node.cli('vm', 'detach-network', 'web', 'red');
    await page.getByText('No VM is on it').waitFor();
    await press('Remove');
    await dialog().getByText('its number is not used again').waitFor();
    await answer('Remove');
    await page.getByText('There are no networks').waitFor();

    await goto(`/vms/${vm}`);
    await press('Take off', panel(page, 'Networks'));
    await dialog().getByText('only network').waitFor();
    await answer('Take it off');
    await dialog().getByRole('alert').waitFor();
  });

  test('a VM is backed up in chains from its page, what is damaged is found, and another is made of what is whole', async () => {
    const vm = await made('db', '--on', 'rack-1');
    await goto(`/vms/${vm}`);
    await panel(page, 'Backups').getByText('It knows of no backup').waitFor();
    const backUp = async () => {
      await press('Back up now', panel(page, 'Backups'));
      if ((await dialog().getByLabel('To').inputValue()) === '') await dialog().getByLabel('To').fill(backups);
      await answer('Back up');
    };
    await press('Back up now', panel(page, 'Backups'));
    await dialog().getByLabel('To').fill('not/absolute');
    await answer('Back up');
    await dialog().getByRole('alert').filter({ hasText: 'Field: to' }).waitFor();
    await answer('Not now');
    await backUp();
    const table = panel(page, 'Backups').getByRole('region', { name: 'Backups' });
    const rows = table.getByRole('row');
    await rows.filter({ hasText: 'full' }).filter({ hasText: 'by a person' }).waitFor();
    // One that takes long can be called off.
    await node.ask('mutation($i:InjectFaultInput!){injectFault(input:$i){points{point}}}', {
      i: { point: 'driver.backup', fault: 'DELAY', delayMs: 10_000, times: 1 },
    });
    await backUp();
    await panel(page, 'Backups').getByText('One is being made').waitFor();
    await press('Call it off', panel(page, 'Backups'));
    await answer('Call it off');
    await panel(page, 'Backups').getByText('One is being made').waitFor({ state: 'detached' });
    assert.equal(await rows.filter({ hasText: 'by a person' }).count(), 1);
    // It remembers where, and that the next one may be incremental.
    await backUp();
    await table.getByText('A chain of 2 backups').waitFor();
    await rows.filter({ hasText: 'incremental' }).waitFor();

    const names = readdirSync(backups).sort();
    const row = (name) => table.getByRole('row').filter({ hasText: name });
    await press('Verify', row(names[1]));
    await row(names[1]).getByText('whole').waitFor();
    await press('Drill', row(names[0]));
    await answer('Try it');
    await dialog().getByRole('alert').filter({ hasText: 'simulated' }).waitFor();
    await answer('Keep as it is');

    // A bit of the first one rots: what is based on it is damaged with it.
    const file = readdirSync(join(backups, names[0])).find((each) => each.endsWith('.simulated'));
    const path = join(backups, names[0], file);
    const whole = readFileSync(path);
    writeFileSync(path, Buffer.concat([Buffer.from([whole[0] ^ 1]), whole.subarray(1)]));
    await press('Verify', row(names[1]));
    await row(names[1]).getByText('damaged', { exact: true }).waitFor();
    await row(names[1]).getByText(file).waitFor();
    await press('Restore', row(names[1]));
    await answer('Restore');
    await dialog().getByRole('alert').filter({ hasText: 'damaged' }).waitFor();
    writeFileSync(path, whole);

    await goto(`/vms/${vm}`);
    await press('Restore', row(names[1]));
    await dialog().getByLabel('Name of the new VM').fill('db-again');
    await answer('Restore');
    await page.getByRole('heading', { name: 'db-again' }).waitFor();
    const { vms } = await node.ask('{vms(filter:{nameContains:"db-again"}){nodes{name}}}');
    assert.equal(vms.nodes.length, 1);
  });

  test('a place is read also when its VMs are gone, and names what is damaged', async () => {
    await made('gone', '--on', 'rack-2');
    const place = join(backups, 'store');
    mkdirSync(place);
    await node.cli('vm', 'backup', 'gone', '--to', place);
    await node.cli('vm', 'backup', 'gone', '--to', place);
    await node.cli('vm', 'remove', 'gone', '--force');
    const [first] = readdirSync(place).sort();
    const file = readdirSync(join(place, first)).find((each) => each.endsWith('.simulated'));
    appendFileSync(join(place, first, file), 'more');
    await goto('/backups');
    await page.getByLabel('Place').fill(place);
    await press('Look');
    await page.getByText('2 backups').waitFor();
    await page.getByText('One is damaged').waitFor();
    const row = page.getByRole('row').filter({ hasText: first });
    await row.getByText(file).waitFor();
    await until('its address has the place', () => page.url().includes('in='));
    await goto(`/backups?in=${encodeURIComponent('/no/such/place')}`);
    await page.getByRole('alert').waitFor();
  });

  test('a VM backs itself up by a schedule that is set, changed and ended on its page', async () => {
    const vm = await made('cron', '--on', 'rack-2');
    await goto(`/vms/${vm}`);
    await press('Make a schedule', panel(page, 'Backups'));
    await dialog().getByLabel('When').fill('every day');
    await dialog().getByLabel('To').fill(backups);
    await answer('Make it');
    await dialog().getByRole('alert').filter({ hasText: 'Field: cron' }).waitFor();
    await dialog().getByLabel('When').fill('0 4 * * *');
    await dialog().getByLabel('One in so many is full').fill('5');
    await answer('Make it');
    await panel(page, 'Backups').getByText('one in 5 is full, the others incremental').waitFor();
    await press('Change the schedule', panel(page, 'Backups'));
    assert.equal(await dialog().getByLabel('When').inputValue(), '0 4 * * *');
    await dialog().getByLabel('Keep').fill('3');
    await answer('Change it');
    await panel(page, 'Backups').getByText('It keeps the newest 3').waitFor();
    await goto('/backups');
    await page.getByText('1 VM backs itself up there').waitFor();
    await goto(`/vms/${vm}`);
    await press('End the schedule', panel(page, 'Backups'));
    await answer('End it');
    await page.getByRole('button', { name: 'Make a schedule' }).waitFor();
    const { node: found } = await node.ask('query($v:ID!){node(id:$v){... on Vm{backupSchedule{cron}}}}', { v: vm });
    assert.equal(found.backupSchedule, null);
  });

  test('what a VM and a host used is drawn over time as it was measured, and what was not measured is said to be', async () => {
    const vm = await made('busy', '--on', 'rack-1', '--cpus', '4');
    await node.cli('host', 'add', 'simulated://blind?cpus=8', '--name', 'blind');
    const dark = await made('dark', '--on', 'blind');
    const sample = await until('two looks were taken', async () => {
      const { vmUsage } = await node.ask('query($v:ID!){vmUsage(id:$v){at used{cpus memoryBytes}}}', { v: vm });
      return vmUsage.findLast(({ used }) => used.cpus !== null);
    });
    // A quarter of each of its CPUs, as its host has it.
    assert.ok(Math.abs(sample.used.cpus - 1) < 0.1, `${sample.used.cpus} CPUs`);
    await goto(`/vms/${vm}`);
    await page.getByRole('img', { name: /^CPU: used (0\.9\d|1\.0\d), it has 4\.00$/ }).waitFor();
    await page.getByRole('img', { name: 'Memory: resident 256 MiB, it has 1.0 GiB' }).waitFor();
    await page.getByRole('img', { name: /^Disks, a second: read \d.* KiB, written \d/ }).waitFor();
    await page.getByRole('img', { name: /^Networks, a second: in \d.* KiB, out \d/ }).waitFor();
    await panel(page, 'Measured')
      .getByText(/^(0\.9\d|1\.0\d) of 4/)
      .waitFor();
    // Of a simulated host it is said that nobody measured it.
    await panel(page, 'Measured')
      .getByText(/^Simulated, not measured/)
      .waitFor();
    const said = () => page.getByRole('img', { name: /^CPU/ }).getAttribute('aria-label');
    assert.match(await said(), /used/);
    const { node: found } = await node.ask('query($v:ID!){node(id:$v){... on Vm{host{id}}}}', { v: vm });
    await goto(`/hosts/${found.host.id}`);
    await page.getByRole('img', { name: /^CPU: used \d.*, promised \d/ }).waitFor();
    await panel(page, 'What its VMs used')
      .getByText(/^Simulated, not measured/)
      .waitFor();
    await panel(page, 'What its VMs used').getByText('6 h').click();
    await page.getByRole('img', { name: /^CPU: used \d.*, promised \d/ }).waitFor();
    await goto(`/vms/${dark}`);
    await page.getByText('Nothing was measured', { exact: true }).waitFor();
    await page.getByText('Nothing was measured yet').waitFor();
    assert.equal(await page.getByRole('img', { name: /^CPU/ }).count(), 0);
  });

  test('a VM is resized while it runs, says what waits for its next start, and gets and loses a disk', async () => {
    const vm = await made('grow', '--on', 'rack-2');
    const shape = async () => {
      const asked = '... on Vm{cpus memoryBytes disks{name sizeBytes} pendingRestart{cpus memoryBytes}}';
      return (await node.ask(`query($v:ID!){node(id:$v){${asked}}}`, { v: vm })).node;
    };
    await goto(`/vms/${vm}`);
    const size = panel(page, 'Size and disks');
    await press('Resize', size);
    assert.equal(await dialog().getByRole('button', { name: 'Resize', exact: true }).isDisabled(), true);
    await dialog().getByLabel('CPUs').fill('3');
    await dialog().getByLabel('Memory').fill('2');
    await dialog().getByLabel('Leave what runs alone').click();
    await answer('Resize');
    await size.getByRole('row').filter({ hasText: 'CPUs' }).filter({ hasText: /3\s*1/ }).waitFor();
    await size.getByRole('row').filter({ hasText: 'Memory' }).filter({ hasText: '2.0 GiB1.0 GiB' }).waitFor();
    const { pendingRestart, ...now } = await shape();
    assert.deepEqual([now.cpus, Number(now.memoryBytes)], [3, 2 * 2 ** 30]);
    assert.deepEqual([pendingRestart.cpus, Number(pendingRestart.memoryBytes)], [1, 2 ** 30]);
    await press('Resize', size);
    await dialog().getByLabel('Memory').fill('9000');
    await answer('Resize');
    await dialog().getByRole('alert').waitFor();
    await answer('Not now');
    assert.equal(Number((await shape()).memoryBytes), 2 * 2 ** 30);
    await press('Stop');
    await answer('Stop');
    await press('Start');
    await size.getByRole('row').filter({ hasText: 'CPUs' }).getByText('the same').waitFor();

    await press('Attach a disk', size);
    await dialog().getByLabel('Disk’s name').fill('data');
    await dialog().getByLabel('Size').fill('4');
    await answer('Attach it');
    const row = size.getByRole('row').filter({ hasText: 'Disk data' });
    await row.filter({ hasText: '4.0 GiB' }).waitFor();
    await press('Detach', row);
    await answer('Detach it');
    await dialog().getByRole('alert').waitFor();
    await dialog().getByLabel('Its data shall be deleted').click();
    await answer('Detach it');
    await row.waitFor({ state: 'detached' });
    assert.deepEqual((await shape()).disks, []);
  });

  test('a VM is cloned from its page, and a name that is taken is said to be', async () => {
    const vm = await made('dolly', '--on', 'rack-1');
    await goto(`/vms/${vm}`);
    await press('Clone');
    await dialog().getByLabel('Name of the clone').fill('dolly');
    await answer('Clone');
    await dialog().getByRole('alert').filter({ hasText: 'there is a VM named "dolly" already' }).waitFor();
    await dialog().getByLabel('Name of the clone').fill('dolly-two');
    await dialog().getByLabel('On', { exact: true }).selectOption({ label: 'rack-1' });
    await answer('Clone');
    await dialog().waitFor({ state: 'detached' });
    await panel(page, 'Operations')
      .getByRole('row')
      .filter({ hasText: 'clone' })
      .filter({ hasText: 'succeeded' })
      .waitFor();
    // The operation is that of the VM that was cloned: what was made of it starts after that.
    const clones = await until('the clone runs', async () => {
      const { vms } = await node.ask('{vms(filter:{nameContains:"dolly-two"}){nodes{status host{name}}}}');
      return vms.nodes.length === 1 && vms.nodes[0].status === 'RUNNING' && vms.nodes;
    });
    assert.deepEqual(clones, [{ status: 'RUNNING', host: { name: 'rack-1' } }]);
    // What a simulated machine has on its disk is nothing that another could begin with: that it says.
    await press('Make an image');
    await dialog().getByLabel('Name of the image').fill('of-dolly');
    await answer('Make it');
    await dialog().getByRole('alert').filter({ hasText: 'it is simulated' }).waitFor();
  });

  test('VMs that wait booted for an agent are shown as such wherever it matters', async () => {
    const swarm = await node.ask('mutation($i:CreateSwarmInput!){createSwarm(input:$i){swarm{id}}}', {
      i: { name: 'eager' },
    });
    const agent = await node.agent({
      name: 'quick',
      swarm: 'eager',
      session: { vm: { image: 'debian-12', memoryBytes: 1 << 30, warm: 2 } },
    });
    const waiting = await until('two wait', async () => {
      const { vms } = await node.ask('{vms{nodes{id name status warmFor}}}');
      const found = vms.nodes.filter(({ warmFor, status }) => warmFor === agent && status === 'RUNNING');
      return found.length === 2 && found;
    });
    await goto(`/agents/${agent}`);
    await page.getByText('2 of 2').waitFor();
    await page.getByText('are ready for its next attempts').waitFor();
    await page.getByRole('list', { name: 'VMs that wait for it' }).getByRole('link').nth(1).waitFor();
    await page.getByRole('link', { name: waiting[0].name, exact: true }).click();
    await page.getByRole('heading', { name: waiting[0].name }).waitFor();
    await page.getByRole('definition').filter({ hasText: 'the next attempt of quick, booted ahead' }).waitFor();
    await goto('/hosts');
    await page.getByText('2 of them wait for attempts').waitFor();
    const row = page.getByRole('table', { name: 'VMs' }).getByRole('row').filter({ hasText: waiting[0].name });
    await row.getByText('waits ready for').waitFor();
    await goto(`/swarms/${swarm.createSwarm.swarm.id}`);
    await page.getByText('of 2 that wait for attempts').waitFor();
    await node.ask('mutation($i:RemoveAgentInput!){removeAgent(input:$i){cursor}}', { i: { agent, force: true } });
    await goto('/hosts');
    await page.getByText('of them wait for attempts').waitFor({ state: 'detached' });
  });

  test('what would make hosts more even is shown with its reasons, begun, watched and called off', async () => {
    const { hosts } = await node.ask('{hosts{nodes{id name}}}');
    for (const { id } of hosts.nodes) await node.cli('host', 'remove', id, '--force');
    for (const n of [3, 4])
      await node.cli('host', 'add', `simulated://even-${n}?cpus=8&memoryGiB=32&migrateMs=60000`, '--name', `even-${n}`);
    for (const n of [1, 2, 3, 4]) await made(`load-${n}`, '--on', 'even-3', '--cpus', '8');
    await goto('/hosts');
    await page.getByRole('link', { name: 'Rebalance' }).click();
    const planned = page.getByRole('region', { name: 'Planned moves' });
    // It has not held for five minutes: shown, and not offered.
    await page.getByText('They may not begin yet').waitFor();
    assert.equal(await page.getByRole('button', { name: 'Rebalance now' }).isDisabled(), true);
    await planned.getByText('a gain of').first().waitFor();
    await page.getByLabel('For at least').fill('0');
    await until('its address has the rule', () => page.url().includes('hold=0'));
    const forecast = page.getByRole('region', { name: 'How full hosts are' }).getByRole('row');
    await forecast.filter({ hasText: 'even-3' }).filter({ hasText: '100 %' }).filter({ hasText: '50 %' }).waitFor();
    await forecast.filter({ hasText: 'even-4' }).filter({ hasText: '0 %' }).filter({ hasText: '50 %' }).waitFor();
    const { rebalancePlan: plan } = await node.ask('{rebalancePlan(rules:{holdMs:0}){moves{vmName reason}}}');
    assert.equal(plan.moves.length, 2);
    await planned.getByText(plan.moves[0].reason).waitFor();
    await press('Rebalance now');
    await dialog().getByText('VMs move while they run').waitFor();
    await answer('Move them');
    await page.getByText('2 moves asked for').waitFor();
    const under = page.getByRole('region', { name: 'Moves under way' });
    await under.getByRole('row').nth(2).waitFor();
    await press('Call all moves off');
    await answer('Call them off');
    await page.getByText('All moves are called off').waitFor();
    await under.waitFor({ state: 'detached' });
    await until('all run where they were', async () => {
      const { vms } = await node.ask('{vms{nodes{name status host{name}}}}');
      const loads = vms.nodes.filter(({ name }) => name.startsWith('load-'));
      return loads.length === 4 && loads.every(({ status, host }) => status === 'RUNNING' && host.name === 'even-3');
    });
  });
});
