//! Contests on a real device: right ways agree and are timed, wrong ones are seen.

use super::contest::Stand;
use super::*;
use crate::config::{ModelConfig, Preset};
use crate::ops::gemm::fast::FastPlan;
use crate::ops::gemm::halves::{self, HalvesPlan, HalvesTile};
use crate::ops::gemm::units::{UnitPlan, UnitTile};
use crate::ops::gemm::{Gemm, Matrix, Pass, Way};
use crate::recording::{BufferId, View};
use crate::vulkan::{DeviceInfo, Selection, Simulation, devices};

/// Software Vulkan, or the device named by `HLX_TEST_DEVICE`, watched unless `HLX_TEST_VALIDATION=0`.
fn open() -> Arc<Device> {
    open_simulated(Simulation::default())
}

fn open_simulated(simulation: Simulation) -> Arc<Device> {
    let install = "this test needs software Vulkan and the Vulkan validation layer (Debian and Ubuntu: apt \
                   install mesa-vulkan-drivers vulkan-validationlayers)";
    let selection = match std::env::var("HLX_TEST_DEVICE") {
        Ok(name) => name.parse().expect("every text names a device"),
        Err(_) => {
            let all = devices().unwrap_or_else(|error| panic!("{error}; {install}"));
            let software = all.iter().find(|d| d.kind == Kind::Cpu);
            Selection::Index(software.unwrap_or_else(|| panic!("{install}")).index)
        }
    };
    let watched = std::env::var("HLX_TEST_VALIDATION").map_or(true, |value| value != "0");
    Device::open_simulated(&selection, watched, simulation)
        .unwrap_or_else(|error| panic!("{error}; {install}"))
}

/// The device as a GPU.
fn traits(device: &Device, precision: Precision) -> Traits {
    Traits { precision, fast_shared_memory: true, ..device.traits() }
}

fn gemm([m, k, n]: [usize; 3], causal: Causal, batches: usize) -> Gemm {
    let view = |words| View { buffer: BufferId(0), offset: 0, words };
    let square = |rows, columns| {
        Matrix::new(view(rows * columns * batches), columns).batched(rows * columns * batches, rows * columns)
    };
    let (a, b, c) = (square(m, k), square(k, n), square(m, n));
    Gemm { batch_inner: batches, causal, ..Gemm::new(Pass::Backward, [m, k, n], a, b, c) }
}

fn tunable(gemm: &Gemm, traits: &Traits) -> Tunable {
    Tunable::of(gemm, traits, true).expect("no columns are summed")
}

fn entry(gemm: Gemm, ways: Vec<Way>, traits: &Traits) -> Entry {
    Entry { key: tunable(&gemm, traits).key(), contestant: Contestant { gemm, ways } }
}

/// Of each product's ways, those whose bits are those of its first.
fn agree(device: &Arc<Device>, traits: Traits, contestants: &[Contestant]) -> Vec<Vec<bool>> {
    let mut stand = DeviceStand::load(device, StandProgram::new(contestants, traits)).unwrap();
    let found = (0..contestants.len()).map(|number| stand.agree(number).unwrap().expect("it is short"));
    let found = found.collect();
    assert_eq!(device.validation_messages(), Vec::<String>::new());
    found
}

/// Ways that are quickly built by software Vulkan: of the smaller tiles. Its matrix units fill few of those
/// that GPUs choose from, so there others stand for them.
fn ways(gemm: &Gemm, traits: &Traits) -> Vec<Way> {
    let best = Way::best(gemm, traits, true);
    if let (Way::Units(plan), Some(units)) = (best, traits.matrix_units) {
        let small = |step, columns, band| UnitTile { step, band, ..UnitTile::new([32, columns], [16, 16]) };
        let tiles = [plan.tile, small(16, 32, 8), small(32, 32, 1), small(32, 64, 2), small(64, 32, 3)];
        let trans = [gemm.a.layout.trans, gemm.b.layout.trans];
        let possible = tiles.into_iter().filter(|tile| tile.is_even(trans, units));
        return possible.map(|tile| Way::Units(UnitPlan { tile, ..plan })).collect();
    }
    let all = tunable(gemm, traits).ways(traits);
    all[all.len().saturating_sub(3)..].to_vec()
}

/// Products of every layout and triangle that a step has.
fn products() -> Vec<Gemm> {
    let mut bias = gemm([96, 64, 72], Causal::None, 1);
    bias.bias = Some(View { buffer: BufferId(0), offset: 0, words: 72 });
    bias.pass = Pass::Forward;
    let mut transposed = gemm([64, 560, 64], Causal::None, 1);
    transposed.a = Matrix::new(transposed.a.view, 64).transposed();
    let lower = gemm([72, 72, 24], Causal::LowerA, 3);
    let mut upper = Gemm { causal: Causal::UpperA, ..lower };
    upper.a = upper.a.transposed();
    vec![bias, transposed, gemm([72, 24, 72], Causal::LowerOutput, 3), lower, upper]
}

/// Products whose factors, and whose result, are packed.
fn packed() -> [Gemm; 2] {
    let plain = gemm([96, 560, 64], Causal::None, 1);
    let packed = Gemm { a: plain.a.packed(), b: plain.b.packed(), ..plain };
    [packed, Gemm { c: packed.c.packed(), ..packed }]
}

/// A product of split factors by tiles that are quickly built, where a device has the units for it.
fn of_split_factors(traits: &Traits) -> Option<Contestant> {
    halves::wanted(traits)?;
    let tile = HalvesTile::new([32, 32], [16, 16]);
    let longer = HalvesTile { step: 32, shares: 2, band: 1, ..tile };
    let tiles = [tile, longer, HalvesTile { columns: 64, part_columns: 32, ahead: false, ..tile }];
    let ways = tiles.map(|tile| Way::Halves(HalvesPlan { tile, block_terms: 128 }));
    Some(Contestant { gemm: gemm([96, 320, 64], Causal::None, 1), ways: ways.to_vec() })
}

#[test]
fn every_way_of_every_product_has_the_same_bits() {
    let device = open();
    for precision in [Precision::Exact, Precision::F32, Precision::Mixed] {
        let traits = traits(&device, precision);
        if precision == Precision::Mixed && traits.matrix_units.is_none() {
            say(format_args!("NOT RUN in mixed: {} has no matrix units", device.info().name));
            continue;
        }
        let contestant = |gemm: Gemm| Contestant { gemm, ways: ways(&gemm, &traits) };
        let mut contestants: Vec<_> = products().into_iter().map(contestant).collect();
        contestants.extend(packed().into_iter().filter(|_| precision == Precision::Mixed).map(contestant));
        contestants.extend(of_split_factors(&traits));
        for (contestant, agree) in contestants.iter().zip(agree(&device, traits, &contestants)) {
            let Contestant { gemm, ways } = contestant;
            assert!(ways.len() > 1, "{gemm:?}");
            assert_eq!(agree, vec![true; ways.len()], "{ways:?} of {gemm:?}");
        }
    }
}

/// Sums in blocks of other lengths are rounded otherwise: such a way is no alternative, and if it were taken
/// for one it would be seen.
#[test]
fn a_way_with_other_bits_is_seen() {
    let device = open();
    let traits = traits(&device, Precision::F32);
    let gemm = gemm([96, 560, 64], Causal::None, 1);
    let right = ways(&gemm, &traits);
    let Way::Fast(plan) = right[0] else { panic!("no fused product: {right:?}") };
    let other = Way::Fast(FastPlan { block_terms: plan.block_terms / 2, ..plan });
    let planted = Contestant { gemm, ways: vec![right[0], other, right[1]] };
    assert_eq!(agree(&device, traits, &[planted]), [[true, false, true]]);
}

/// Elements that are not written are a difference too.
#[test]
fn a_way_that_leaves_elements_is_seen() {
    let device = open();
    let traits = traits(&device, Precision::Exact);
    let gemm = gemm([40, 24, 136], Causal::None, 1);
    let ways = ways(&gemm, &traits);
    let mut parts = StandProgram::new(&[Contestant { gemm, ways: ways.clone() }], traits);
    parts.leave_out_last_column(1);
    let mut stand = DeviceStand::load(&device, parts).unwrap();
    assert_eq!(stand.agree(0).unwrap().unwrap(), [true, false, true]);
}

/// Factors of more numbers than the host makes are filled to the end.
#[test]
fn large_factors_are_random_to_the_end() {
    let device = open();
    for precision in [Precision::Exact, Precision::Mixed] {
        let traits = traits(&device, precision);
        let mut gemm = gemm([8256, 1024, 8], Causal::None, 1);
        if precision == Precision::Mixed {
            if traits.matrix_units.is_none() {
                say(format_args!("NOT RUN in mixed: {} has no matrix units", device.info().name));
                continue;
            }
            gemm = Gemm { a: gemm.a.packed(), b: gemm.b.packed(), ..gemm };
        }
        let contestant = Contestant { gemm, ways: ways(&gemm, &traits) };
        let mut stand = DeviceStand::load(&device, StandProgram::new(&[contestant], traits)).unwrap();
        let [floats, packed] = stand.numbers().unwrap();
        let numbers = if precision == Precision::Mixed { packed } else { floats };
        let words = numbers.len();
        assert!(words > 4_200_000, "{words}");
        let zeros = |part: &[u32]| part.iter().filter(|&&word| word == 0).count();
        assert_eq!([zeros(&numbers[..1000]), zeros(&numbers[words - 1000..])], [0, 0]);
    }
    assert_eq!(device.validation_messages(), Vec::<String>::new());
}

#[test]
fn time_that_has_run_out_leaves_products_as_they_are() {
    let device = open();
    let traits = traits(&device, Precision::Exact);
    let entries: Vec<Entry> =
        products().into_iter().map(|gemm| entry(gemm, ways(&gemm, &traits), &traits)).take(2).collect();
    let all: Vec<&Entry> = entries.iter().collect();
    let found = time_on(&device, traits, |_| true, &all, Duration::ZERO).unwrap();
    assert_eq!((found.names.len(), found.left), (0, 2));
    // What does not fit stays as it is, and is no failure.
    let found = time_on(&device, traits, |_| false, &all, LONGEST).unwrap();
    assert_eq!((found.names.len(), found.left), (0, 0));
    let found = time_on(&device, traits, |_| true, &all[..1], Duration::from_secs(600)).unwrap();
    assert_eq!((found.names.len(), found.left), (1, 0));
    assert_eq!(device.validation_messages(), Vec::<String>::new());
}

#[test]
fn products_are_told_apart_and_the_largest_come_first() {
    let model = ModelConfig { context: 64, ..Preset::Nano.config(65) };
    let shape = StepShape {
        model,
        batch_size: 4,
        grad_accum: 1,
        beta1: 0.9,
        beta2: 0.99,
        eps: 1e-8,
        grad_clip: 1.0,
        seed: 1,
    };
    let traits = Traits { fast_shared_memory: true, ..Traits::PLAIN };
    let products = TrainProgram::new(&shape, traits).first.products;
    let entries = worthwhile(&products, &traits);
    let flops = |entry: &Entry| entry.contestant.gemm.problem().flops();
    assert!(entries.len() > 10 && entries.len() < products.len() / 2, "{}", entries.len());
    assert!(entries[0].contestant.ways.len() > 2);
    assert!(flops(&entries[0]) > flops(entries.last().unwrap()));
    let keys: std::collections::BTreeSet<_> = entries.iter().map(|entry| &entry.key).collect();
    assert_eq!(keys.len(), entries.len());
}

#[test]
fn what_is_known_is_taken_and_what_names_nothing_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let traits = Traits { fast_shared_memory: true, ..Traits::PLAIN };
    let all = |gemm: &Gemm| tunable(gemm, &traits).ways(&traits);
    let entries: Vec<Entry> = products()[..3].iter().map(|&gemm| entry(gemm, all(&gemm), &traits)).collect();
    let place = Place {
        device: "a card".into(),
        vendor_id: 1,
        device_id: 2,
        driver: "1".into(),
        kernels_hash: "k".into(),
        precision: Precision::Exact,
    };
    let name = |entry: usize, way: usize| entries[entry].contestant.ways[way].name();
    let found = |names: &[(usize, String)]| -> BTreeMap<String, String> {
        names.iter().map(|(entry, name)| (entries[*entry].key.clone(), name.clone())).collect()
    };
    let cache = Cache::in_folder(folder.path());
    cache.add(&place, &found(&[(0, name(0, 1)), (1, "a tile of another world".into())])).unwrap();
    let mut tuner = Tuner { wanted: true, cache, known: vec![], warned: false };
    assert_eq!(tuner.recall(&place, &entries), found(&[(0, name(0, 1))]));
    // What a checkpoint says comes before the file.
    tuner.known.push((place.clone(), found(&[(0, name(0, 2)), (2, name(2, 1))])));
    assert_eq!(tuner.recall(&place, &entries), found(&[(0, name(0, 2)), (2, name(2, 1))]));
    let elsewhere = Place { driver: "2".into(), ..place };
    assert_eq!(tuner.recall(&elsewhere, &entries), found(&[]));
}

/// A start at which nothing else is unknown times nothing and keeps nothing, so it is as quiet as one at
/// which all is known.
#[test]
fn products_that_do_not_fit_are_left_as_they_are() {
    let a_small_gpu = |info: &mut DeviceInfo| {
        info.kind = Kind::Discrete;
        info.max_storage_range_bytes = 1 << 20;
    };
    let backend =
        Backend::Vulkan(open_simulated(Simulation { lower: Some(a_small_gpu), ..Default::default() }));
    let traits = backend.traits(Precision::Exact);
    let place = place(&backend, Precision::Exact).unwrap();
    let [small, large] = [[256, 64, 128], [1024, 64, 1024]].map(|sizes| {
        let product = tunable(&gemm(sizes, Causal::None, 1), &traits);
        (product, product.ways(&traits))
    });
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::in_folder(folder.path());
    let known = BTreeMap::from([(small.0.key(), small.1[1].name())]);
    cache.add(&place, &known).unwrap();
    let mut tuner = Tuner { wanted: true, cache: cache.clone(), known: vec![], warned: false };
    let tuning = tuner.of_products(&backend, Precision::Exact, &[small.0, large.0]);
    let all = known.iter().map(|(key, name)| (key.clone(), name.clone()));
    assert_eq!(tuning.names, all.chain([(large.0.key(), large.1[0].name())]).collect());
    assert_eq!((tuner.known, cache.read(&place)), (vec![], known));
}
