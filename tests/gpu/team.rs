//! GPUs that share the images of each batch, by way of the host's memory and by calls that stand for NCCL's: what they learn is, bit by
//! bit, what one GPU learns.

use super::network::{TRAIN_CASES, TrainCase, batch, device, golden, host};
use epicker::device::gpu::Gpu;
use epicker::device::team::nccl::{Calls, Id, Nccl};
use epicker::device::team::{Collective, in_process};
use epicker::device::{Device, Team};
use epicker::formats::model_file::load_model_file;
use epicker::net::Architecture;
use epicker::ops::Compute;
use epicker::train::run::Learner;
use epicker::train::{Continual, Losses, TrainerOptions, Trainers};
use hostgpu::Build;
use std::cell::RefCell;
use std::ffi::{c_char, c_int, c_void};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

const TINY: Architecture = Architecture { channels: [8, 8, 12, 16, 24, 32], head: 16 };

/// Every value of a network after some steps on three images, and the losses.
fn learnt(devices: &[Device], collectives: Vec<Arc<dyn Collective>>, case: &TrainCase, steps: usize) -> (Vec<u32>, Vec<Losses>) {
    let frame = super::network::FRAME;
    let options = TrainerOptions { batch: 3, ..super::network::options(case) };
    let model = |name: &str| load_model_file(&golden(name)).unwrap();
    let continual = case.continual.then(|| Continual { compared: case.compared, ..Continual::new(model("train/tiny_old.safetensors")) });
    let computes: Vec<Compute> = devices.iter().map(Compute::from).collect();
    let state = model("models/tiny.safetensors");
    let mut trainers = match devices.len() {
        1 => Trainers::new(&computes, TINY, &state, &options, continual.as_ref()).unwrap(),
        _ => Trainers::joined(&computes, collectives, TINY, &state, &options, continual.as_ref()).unwrap(),
    };
    let (images, targets) = batch(3, frame);
    let losses = (0..steps).map(|_| trainers.step(&images, &targets, &[true, false, false], 1e-3).unwrap()).collect();
    let state = trainers.first().state().unwrap();
    (state.parameters.iter().chain(&state.statistics).map(|value| value.to_bits()).collect(), losses)
}

fn gpus(count: usize) -> Vec<Device> {
    (0..count).map(|_| device(Build::Fast)).collect()
}

#[test]
fn two_gpus_learn_what_one_learns_by_way_of_the_host() {
    let case = &TRAIN_CASES[0];
    assert!(learnt(&gpus(2), in_process(2), case, 2) == learnt(&gpus(1), Vec::new(), case, 2));
}

/// What stands for NCCL: the members, and what each of them has called.
struct Standing {
    members: Vec<(Arc<dyn Collective>, Gpu)>,
    called: Vec<Vec<String>>,
    ended: usize,
}

static STANDING: Mutex<Standing> = Mutex::new(Standing { members: Vec::new(), called: Vec::new(), ended: 0 });

thread_local! {
    /// Sends and receives of the group in hand.
    static GROUP: RefCell<Vec<(usize, usize, usize, c_int)>> = const { RefCell::new(Vec::new()) };
}

fn standing() -> MutexGuard<'static, Standing> {
    STANDING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The member of a communicator, after its call was noted.
fn member(communicator: *mut c_void, call: String) -> (Arc<dyn Collective>, Device) {
    let (rank, mut standing) = (communicator as usize - 1, standing());
    standing.called[rank].push(call);
    let (collective, gpu) = standing.members[rank].clone();
    (collective, Device::Gpu(gpu))
}

unsafe extern "C" fn get_version(version: *mut c_int) -> c_int {
    // SAFETY: the caller gives a place for a number.
    unsafe { *version = 22_304 };
    0
}

unsafe extern "C" fn get_error_string(_: c_int) -> *const c_char {
    c"unhandled system error".as_ptr()
}

unsafe extern "C" fn get_unique_id(id: *mut Id) -> c_int {
    // SAFETY: the caller gives a place for a name.
    unsafe { *id = Id([7; 128]) };
    0
}

unsafe extern "C" fn comm_init_rank(communicator: *mut *mut c_void, size: c_int, id: Id, rank: c_int) -> c_int {
    if id != Id([7; 128]) || size as usize != standing().members.len() {
        return 4;
    }
    // SAFETY: the caller gives a place for a communicator.
    unsafe { *communicator = (rank as usize + 1) as *mut c_void };
    0
}

unsafe extern "C" fn end(_: *mut c_void) -> c_int {
    standing().ended += 1;
    0
}

unsafe extern "C" fn all_gather(
    from: *const c_void,
    to: *mut c_void,
    count: usize,
    kind: c_int,
    communicator: *mut c_void,
    stream: *mut c_void,
) -> c_int {
    let (collective, device) = member(communicator, format!("gather {count}"));
    let is_in_place = from as usize == to as usize + collective.rank() * count;
    if kind != 0 || !is_in_place || stream as u64 != device_stream(&device) {
        return 4;
    }
    // SAFETY: passed on from the caller.
    c_int::from(unsafe { collective.gather(&device, to.cast(), count) }.is_err())
}

fn device_stream(device: &Device) -> u64 {
    let Device::Gpu(gpu) = device else { panic!("{device:?}") };
    gpu.stream().0
}

unsafe extern "C" fn send(from: *const c_void, count: usize, _: c_int, peer: c_int, communicator: *mut c_void, _: *mut c_void) -> c_int {
    GROUP.with_borrow_mut(|group| group.push((from as usize, count, communicator as usize, peer)));
    0
}

unsafe extern "C" fn recv(to: *mut c_void, count: usize, _: c_int, peer: c_int, communicator: *mut c_void, _: *mut c_void) -> c_int {
    GROUP.with_borrow_mut(|group| group.push((to as usize, count, communicator as usize, peer)));
    0
}

unsafe extern "C" fn group_start() -> c_int {
    GROUP.with_borrow_mut(Vec::clear);
    0
}

unsafe extern "C" fn group_end() -> c_int {
    let group = GROUP.take();
    let [(from, count, communicator, _), (to, ..)] = group[..2] else { return 4 };
    let (collective, device) = member(communicator as *mut c_void, format!("exchange {count}"));
    let expected = (0..collective.size()).flat_map(|peer| [from, to].map(|base| (base + peer * count, count, communicator, peer as c_int)));
    if !expected.eq(group.iter().copied()) {
        return 4;
    }
    // SAFETY: passed on from the callers of `send` and `recv`.
    c_int::from(unsafe { collective.exchange(&device, from as *const u8, to as *mut u8, count) }.is_err())
}

#[test]
fn two_gpus_learn_what_one_learns_by_nccl() {
    let (devices, hosts): (Vec<Device>, Vec<_>) = (0..2).map(|_| host(Build::Fast)).unzip();
    let gpus: Vec<Gpu> = devices
        .iter()
        .map(|device| match device {
            Device::Gpu(gpu) => gpu.clone(),
            other => panic!("{other:?}"),
        })
        .collect();
    *standing() = Standing { members: in_process(2).into_iter().zip(gpus.clone()).collect(), called: vec![Vec::new(); 2], ended: 0 };
    let calls = Calls {
        get_version,
        get_error_string,
        get_unique_id,
        comm_init_rank,
        comm_destroy: end,
        comm_abort: end,
        all_gather,
        send,
        recv,
        group_start,
        group_end,
    };
    // SAFETY: these calls copy as NCCL's do.
    let nccl = unsafe { Nccl::of_calls(calls) };
    assert_eq!(nccl.version().unwrap(), 22_304);
    let case = &TRAIN_CASES[2];
    let found = learnt(&devices, nccl.in_process(&gpus).unwrap(), case, 2);
    assert!(found == learnt(&self::gpus(1), Vec::new(), case, 2));
    let standing = standing();
    // Both have made the same calls in the same order: of each step, the norms of the whole network forward and backward, the maps that
    // the losses read, one exchange of gradients, and the shares and the distances that are gathered after it.
    let [first, second] = &standing.called[..] else { panic!("two members") };
    assert_eq!(first, second);
    let exchanges = first.iter().filter(|call| call.starts_with("exchange")).count();
    assert!(exchanges == 2 && first.len() > 150, "{} calls, {exchanges} exchanges", first.len());
    assert_eq!(standing.ended, 2, "each communicator is given back");
    drop(hosts);
}

#[test]
fn a_team_deals_out_a_batch_in_blocks() {
    let members = in_process(3);
    let own = |images: usize| members.iter().map(|member| Team::of(Some(member.clone()), images).own()).collect::<Vec<_>>();
    assert_eq!(own(6), [0..2, 2..4, 4..6]);
    assert_eq!(own(7), [0..4, 4..7, 7..7]);
    assert_eq!(own(1), [0..1, 1..1, 1..1]);
    assert_eq!(Team::alone(5).own(), 0..5);
}
