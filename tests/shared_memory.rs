//! No kernel takes more of a workgroup's shared memory than the device has that it is chosen for: what the
//! tiles' and blocks' estimates say, beside what the SPIR-V declares.

use std::collections::{BTreeSet, HashMap};

use hlx::config::ModelConfig;
use hlx::kernels::Kernel;
use hlx::precision::Precision;
use hlx::recording::{Factor, MatrixUnits, Traits};
use hlx::train::program::{StepShape, TrainProgram};
use rspirv::dr::{Instruction, Module, Operand};
use rspirv::spirv::{Decoration, Op, StorageClass, Word};

/// A kernel's module with values for its specialization constants.
struct Specialized {
    module: Module,
    /// By the ids of the constants.
    values: HashMap<Word, u32>,
}

impl Specialized {
    fn new(kernel: Kernel, words: &[u32]) -> Specialized {
        let module = rspirv::dr::load_words(kernel.spirv()).expect("the kernel's SPIR-V");
        let given: HashMap<u32, u32> =
            kernel.specialization().iter().zip(words).map(|(constant, word)| (constant.id, *word)).collect();
        let value = |annotation: &Instruction| match annotation.operands.as_slice() {
            [Operand::IdRef(id), Operand::Decoration(Decoration::SpecId), Operand::LiteralBit32(number)] => {
                given.get(number).map(|word| (*id, *word))
            }
            _ => None,
        };
        let values = module.annotations.iter().filter_map(value).collect();
        Specialized { module, values }
    }

    fn global(&self, id: Word) -> &Instruction {
        let mut globals = self.module.types_global_values.iter();
        globals.find(|global| global.result_id == Some(id)).expect("a global with that id")
    }

    fn operand(&self, instruction: &Instruction, index: usize) -> Word {
        instruction.operands[index].id_ref_any().expect("an operand that names another instruction")
    }

    /// The value of a 32-bit or boolean constant.
    fn value(&self, id: Word) -> u32 {
        let constant = self.global(id);
        if let Some(&value) = self.values.get(&id) {
            return value;
        }
        match (constant.class.opcode, constant.operands.first()) {
            (Op::Constant | Op::SpecConstant, Some(Operand::LiteralBit32(value))) => *value,
            (Op::ConstantTrue | Op::SpecConstantTrue, _) => 1,
            (Op::ConstantFalse | Op::SpecConstantFalse, _) => 0,
            (Op::SpecConstantOp, Some(Operand::LiteralSpecConstantOpInteger(op))) => {
                self.calculated(constant, *op)
            }
            other => panic!("{other:?} is no number"),
        }
    }

    fn calculated(&self, constant: &Instruction, op: Op) -> u32 {
        if op == Op::CompositeExtract {
            let Operand::LiteralBit32(place) = constant.operands[2] else { panic!("{constant:?}") };
            let composite = self.global(self.operand(constant, 1));
            return self.value(self.operand(composite, place as usize));
        }
        let x = |index: usize| self.value(self.operand(constant, index + 1));
        match op {
            Op::IAdd => x(0).wrapping_add(x(1)),
            Op::ISub => x(0).wrapping_sub(x(1)),
            Op::IMul => x(0).wrapping_mul(x(1)),
            Op::UDiv => x(0) / x(1),
            Op::UMod => x(0) % x(1),
            Op::Select => x(if x(0) != 0 { 1 } else { 2 }),
            Op::IEqual | Op::LogicalEqual => (x(0) == x(1)).into(),
            Op::INotEqual | Op::LogicalNotEqual => (x(0) != x(1)).into(),
            Op::UGreaterThan => (x(0) > x(1)).into(),
            Op::UGreaterThanEqual => (x(0) >= x(1)).into(),
            Op::ULessThan => (x(0) < x(1)).into(),
            Op::ULessThanEqual => (x(0) <= x(1)).into(),
            Op::LogicalOr => x(0) | x(1),
            Op::LogicalAnd => x(0) & x(1),
            Op::LogicalNot => 1 - x(0),
            other => panic!("{other:?} of constants"),
        }
    }

    fn bytes(&self, type_id: Word) -> u32 {
        let definition = self.global(type_id);
        let literal = |index: usize| match definition.operands[index] {
            Operand::LiteralBit32(value) => value,
            _ => panic!("{definition:?}"),
        };
        match definition.class.opcode {
            Op::TypeInt | Op::TypeFloat => literal(0) / 8,
            Op::TypeVector => self.bytes(self.operand(definition, 0)) * literal(1),
            Op::TypeArray => {
                self.bytes(self.operand(definition, 0)) * self.value(self.operand(definition, 1))
            }
            other => panic!("{other:?} in shared memory"),
        }
    }

    fn shared_bytes(&self) -> u32 {
        let is_shared = |global: &&Instruction| {
            global.class.opcode == Op::Variable
                && global.operands.first() == Some(&Operand::StorageClass(StorageClass::Workgroup))
        };
        let variables = self.module.types_global_values.iter().filter(is_shared);
        let pointee = |pointer: Word| self.operand(self.global(pointer), 1);
        variables.map(|variable| self.bytes(pointee(variable.result_type.expect("a pointer")))).sum()
    }
}

/// The kernels of a training step for a device of these traits, each as it is specialized.
fn kernels(traits: Traits, [d_model, d_head, context]: [usize; 3]) -> BTreeSet<(Kernel, Vec<u32>)> {
    let model = ModelConfig {
        vocab_size: 1500,
        context,
        d_model,
        n_layer: 1,
        n_head: d_model / d_head,
        d_ff: 4 * d_model,
        dropout: 0.1,
        layer_norm_eps: 1e-5,
    };
    let (beta1, beta2, eps) = (0.9, 0.99, 1e-8);
    let shape = StepShape { model, batch_size: 4, grad_accum: 1, beta1, beta2, eps, grad_clip: 1.0, seed: 1 };
    let program = TrainProgram::new(&shape, traits).program;
    let dispatches = program.recordings.into_iter().flat_map(|recording| recording.dispatches);
    dispatches.map(|dispatch| (dispatch.kernel, dispatch.specialization)).collect()
}

#[test]
fn a_devices_shared_memory_is_enough_for_what_is_chosen() {
    let units = [Factor::Bf16, Factor::F16].into_iter().flat_map(|factor| {
        [true, false].map(|in_registers| MatrixUnits { in_registers, ..MatrixUnits::usual(factor) })
    });
    let with = |precision, kib: usize, units: Option<MatrixUnits>| Traits {
        precision,
        fast_shared_memory: true,
        shared_memory_bytes: kib << 10,
        matrix_units: units,
        half_units: units.filter(|units| units.factor == Factor::F16),
        ..Traits::PLAIN
    };
    let mixed = units.clone().flat_map(|units| [32, 48].map(|kib| with(Precision::Mixed, kib, Some(units))));
    let f32 = units.flat_map(|units| [16, 32, 48].map(|kib| with(Precision::F32, kib, Some(units))));
    let exact = [16, 32].map(|kib| with(Precision::Exact, kib, None));
    let without = [16, 32, 48].map(|kib| with(Precision::F32, kib, None));
    let (mut checked, mut most) = (BTreeSet::new(), 0);
    for traits in exact.into_iter().chain(without).chain(f32).chain(mixed) {
        for sizes in [[128, 32, 64], [512, 64, 256], [768, 64, 512], [1024, 128, 1024]] {
            for (kernel, words) in kernels(traits, sizes) {
                let taken = Specialized::new(kernel, &words).shared_bytes();
                let name = kernel.name();
                assert!(
                    taken as usize <= traits.shared_memory_bytes,
                    "{name} {words:?} takes {taken} bytes of {traits:?}"
                );
                checked.insert(name);
                most = most.max(taken);
            }
        }
    }
    assert!(checked.contains("gemm_halves") && checked.contains("gemm_bf16"), "{checked:?}");
    println!("{} kernels, at most {most} bytes: {checked:?}", checked.len());
}
