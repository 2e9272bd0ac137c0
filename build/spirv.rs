//! Looking things up in a SPIR-V module: definitions, types, names, decorations.

use rspirv::dr::{Instruction, Module, Operand};
use rspirv::spirv::{Decoration, Op, Word};
use std::collections::HashMap;

/// An index over a module.
pub struct Index<'m> {
    definitions: HashMap<Word, &'m Instruction>,
    names: HashMap<Word, &'m str>,
    member_names: HashMap<(Word, u32), &'m str>,
    annotations: &'m [Instruction],
}

impl<'m> Index<'m> {
    pub fn new(module: &'m Module) -> Self {
        let definitions = module.all_inst_iter().filter_map(|i| Some((i.result_id?, i))).collect();
        let (mut names, mut member_names) = (HashMap::new(), HashMap::new());
        for name in &module.debug_names {
            match name.operands.as_slice() {
                [Operand::IdRef(id), Operand::LiteralString(text)] => {
                    names.insert(*id, text.as_str());
                }
                [Operand::IdRef(id), Operand::LiteralBit32(member), Operand::LiteralString(text)] => {
                    member_names.insert((*id, *member), text.as_str());
                }
                _ => {}
            }
        }
        Index { definitions, names, member_names, annotations: &module.annotations }
    }

    pub fn definition(&self, id: Word) -> Option<&'m Instruction> {
        self.definitions.get(&id).copied()
    }

    /// The name in the source, empty if it has none.
    pub fn name(&self, id: Word) -> &'m str {
        self.names.get(&id).copied().unwrap_or("")
    }

    pub fn member_name(&self, structure: Word, member: u32) -> &'m str {
        self.member_names.get(&(structure, member)).copied().unwrap_or("")
    }

    /// The operands after the decoration itself, if `id` carries it.
    pub fn decoration(&self, id: Word, decoration: Decoration) -> Option<&'m [Operand]> {
        self.annotations.iter().find_map(|a| match (a.class.opcode, a.operands.as_slice()) {
            (Op::Decorate, [Operand::IdRef(target), Operand::Decoration(kind), extra @ ..])
                if *target == id && *kind == decoration =>
            {
                Some(extra)
            }
            _ => None,
        })
    }

    /// Like [`Index::decoration`], for a member of a structure.
    pub fn member_decoration(&self, id: Word, member: u32, decoration: Decoration) -> Option<&'m [Operand]> {
        self.annotations.iter().find_map(|a| match (a.class.opcode, a.operands.as_slice()) {
            (
                Op::MemberDecorate,
                [Operand::IdRef(target), Operand::LiteralBit32(index), Operand::Decoration(kind), extra @ ..],
            ) if *target == id && *index == member && *kind == decoration => Some(extra),
            _ => None,
        })
    }

    /// The only literal of a decoration, as of `Binding` or `Offset`.
    pub fn decoration_literal(&self, id: Word, decoration: Decoration) -> Option<u32> {
        literal(self.decoration(id, decoration)?, 0)
    }

    /// The value of a 32-bit constant or of a specialization constant's default.
    pub fn constant(&self, id: Word) -> Option<u32> {
        let definition = self.definition(id)?;
        match definition.class.opcode {
            Op::Constant | Op::SpecConstant => literal(&definition.operands, 0),
            Op::ConstantTrue | Op::SpecConstantTrue => Some(1),
            Op::ConstantFalse | Op::SpecConstantFalse => Some(0),
            _ => None,
        }
    }

    /// What a pointer type points to.
    pub fn pointee(&self, pointer_type: Word) -> Option<Word> {
        let definition = self.definition(pointer_type)?;
        (definition.class.opcode == Op::TypePointer).then(|| reference(&definition.operands, 1))?
    }
}

/// The operand at `index`, if it is a 32-bit literal.
pub fn literal(operands: &[Operand], index: usize) -> Option<u32> {
    match operands.get(index)? {
        Operand::LiteralBit32(value) => Some(*value),
        _ => None,
    }
}

/// The operand at `index`, if it names another instruction.
pub fn reference(operands: &[Operand], index: usize) -> Option<Word> {
    match operands.get(index)? {
        Operand::IdRef(id) => Some(*id),
        _ => None,
    }
}
