#include "lorad_sentencepiece.h"

#include <sentencepiece_processor.h>

#include <cstdlib>
#include <cstring>
#include <exception>
#include <memory>
#include <new>
#include <string>
#include <string_view>
#include <vector>

struct LoradSpModel {
  sentencepiece::SentencePieceProcessor processor;
};

namespace {

// Throws std::bad_alloc; only inside Guarded.
void* Copy(const void* data, size_t size_bytes) {
  void* copy = std::malloc(size_bytes == 0 ? 1 : size_bytes);
  if (copy == nullptr) throw std::bad_alloc();
  if (size_bytes > 0) std::memcpy(copy, data, size_bytes);
  return copy;
}

bool Fail(const char* message, char** error) {
  *error = strdup(message);
  return false;
}

// No exception crosses the C ABI.
template <typename Body>
bool Guarded(char** error, Body body) {
  try {
    const sentencepiece::util::Status status = body();
    return status.ok() || Fail(status.ToString().c_str(), error);
  } catch (const std::exception& e) {
    return Fail(e.what(), error);
  } catch (...) {
    return Fail("unknown exception", error);
  }
}

}  // namespace

extern "C" {

void lorad_sp_free(void* memory) { std::free(memory); }

bool lorad_sp_open(const char* bytes, size_t size_bytes, LoradSpModel** out, char** error) {
  return Guarded(error, [&] {
    auto model = std::make_unique<LoradSpModel>();
    sentencepiece::util::Status status = model->processor.LoadFromSerializedProto(std::string_view(bytes, size_bytes));
    if (status.ok()) *out = model.release();
    return status;
  });
}

void lorad_sp_close(LoradSpModel* model) { delete model; }

bool lorad_sp_encode(const LoradSpModel* model, const char* text, size_t size_bytes, LoradSpToken** tokens,
                     size_t* count, char** error) {
  return Guarded(error, [&] {
    sentencepiece::ImmutableSentencePieceText encoded;
    sentencepiece::util::Status status =
        model->processor.Encode(std::string_view(text, size_bytes), encoded.mutable_proto());
    if (status.ok()) {
      std::vector<LoradSpToken> made;
      made.reserve(encoded.pieces_size());
      for (const auto& piece : encoded.pieces()) made.push_back({static_cast<int32_t>(piece.id()), piece.begin()});
      *tokens = static_cast<LoradSpToken*>(Copy(made.data(), made.size() * sizeof(LoradSpToken)));
      *count = made.size();
    }
    return status;
  });
}

bool lorad_sp_decode(const LoradSpModel* model, const int32_t* ids, size_t count, char** text, size_t* size_bytes,
                     char** error) {
  return Guarded(error, [&] {
    std::string decoded;
    sentencepiece::util::Status status = model->processor.Decode(std::vector<int>(ids, ids + count), &decoded);
    if (status.ok()) {
      *text = static_cast<char*>(Copy(decoded.data(), decoded.size()));
      *size_bytes = decoded.size();
    }
    return status;
  });
}

int32_t lorad_sp_vocab_size(const LoradSpModel* model) { return model->processor.GetPieceSize(); }
int32_t lorad_sp_bos_id(const LoradSpModel* model) { return model->processor.bos_id(); }
int32_t lorad_sp_eos_id(const LoradSpModel* model) { return model->processor.eos_id(); }

LoradSpKind lorad_sp_kind(const LoradSpModel* model, int32_t id) {
  const sentencepiece::SentencePieceProcessor& processor = model->processor;
  if (processor.IsUnknown(id)) return kLoradSpUnknown;
  if (processor.IsControl(id)) return kLoradSpControl;
  if (processor.IsByte(id)) return kLoradSpByte;
  if (processor.IsUnused(id)) return kLoradSpUnused;
  return kLoradSpNormal;
}

const char* lorad_sp_id_to_piece(const LoradSpModel* model, int32_t id, size_t* size_bytes) {
  const std::string& piece = model->processor.IdToPiece(id);
  *size_bytes = piece.size();
  return piece.data();
}

int32_t lorad_sp_piece_to_id(const LoradSpModel* model, const char* piece, size_t size_bytes) {
  const std::string_view wanted(piece, size_bytes);
  const int id = model->processor.PieceToId(wanted);
  // An unknown piece is answered with the id of <unk>.
  return id >= 0 && id < model->processor.GetPieceSize() && model->processor.IdToPiece(id) == wanted ? id : -1;
}

}  // extern "C"
