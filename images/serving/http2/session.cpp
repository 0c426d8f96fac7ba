#include "session.h"

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

namespace py = pybind11;

namespace torchyard {
namespace {

constexpr size_t kOutgoing = 1 << 18;
constexpr size_t kFirstRoom = 1 << 16;
// Parts of a message up to here are copied together: each of its own costs more than its bytes.
constexpr size_t kCopied = 1 << 16;
// Windows that do not slow down large tensors; what a connection may really hold is limited by its messages.
constexpr int32_t kStreamWindow = 1 << 20;
constexpr int32_t kConnectionWindow = 1 << 24;

Session* of(void* self) { return static_cast<Session*>(self); }

void require(int code) {
  if (code != 0) {
    throw ProtocolError(nghttp2_strerror(code));
  }
}

// nghttp2 is C: an exception must not cross it, and is raised as one of Python when it has returned.
template <typename Work>
int guarded(const Work& work) {
  try {
    work();
    return 0;
  } catch (py::error_already_set& error) {
    error.restore();
  } catch (const std::bad_alloc&) {
    PyErr_NoMemory();
  }
  return NGHTTP2_ERR_CALLBACK_FAILURE;
}

std::string_view bytes_of(const Outgoing& waiting) {
  const auto* own = std::get_if<std::string>(&waiting);
  return own != nullptr ? *own : std::get<Lent>(waiting).bytes();
}

nghttp2_nv field(std::string_view name, std::string_view value) {
  auto bytes = [](std::string_view text) { return reinterpret_cast<uint8_t*>(const_cast<char*>(text.data())); };
  return {bytes(name), bytes(value), name.size(), value.size(), NGHTTP2_NV_FLAG_NONE};
}

}  // namespace

Session::Session(Limits limits, std::string encodings) : limits_(limits), encodings_(std::move(encodings)) {
  nghttp2_session_callbacks* raw_callbacks = nullptr;
  require(nghttp2_session_callbacks_new(&raw_callbacks));
  const std::unique_ptr<nghttp2_session_callbacks, decltype(&nghttp2_session_callbacks_del)> callbacks(
      raw_callbacks, nghttp2_session_callbacks_del);
  nghttp2_session_callbacks_set_on_begin_headers_callback(raw_callbacks, on_begin_headers);
  nghttp2_session_callbacks_set_on_header_callback(raw_callbacks, on_header);
  nghttp2_session_callbacks_set_on_frame_recv_callback(raw_callbacks, on_frame);
  nghttp2_session_callbacks_set_on_data_chunk_recv_callback(raw_callbacks, on_data);
  nghttp2_session_callbacks_set_on_frame_send_callback(raw_callbacks, on_frame_sent);
  nghttp2_session_callbacks_set_on_stream_close_callback(raw_callbacks, on_stream_close);

  nghttp2_session* raw_session = nullptr;
  require(nghttp2_session_server_new(&raw_session, raw_callbacks, this));
  session_.reset(raw_session);
  const nghttp2_settings_entry settings[] = {
      {NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, limits.calls},
      {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, kStreamWindow},
      {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, static_cast<uint32_t>(limits.headers)},
  };
  require(nghttp2_submit_settings(raw_session, NGHTTP2_FLAG_NONE, settings, std::size(settings)));
  require(nghttp2_session_set_local_window_size(raw_session, NGHTTP2_FLAG_NONE, 0, kConnectionWindow));
}

py::list Session::receive(const py::buffer& bytes) {
  const py::buffer_info info = bytes.request();
  const auto taken =
      nghttp2_session_mem_recv2(session_.get(), static_cast<const uint8_t*>(info.ptr), static_cast<size_t>(info.size));
  if (PyErr_Occurred() != nullptr) {
    throw py::error_already_set();
  }
  if (taken < 0) {
    throw ProtocolError(nghttp2_strerror(static_cast<int>(taken)));
  }
  py::list events;
  std::swap(events, events_);
  return events;
}

py::bytes Session::outgoing() {
  std::string collected;
  while (collected.size() < kOutgoing) {
    const uint8_t* data = nullptr;
    const auto size = nghttp2_session_mem_send2(session_.get(), &data);
    if (PyErr_Occurred() != nullptr) {
      throw py::error_already_set();
    }
    if (size < 0) {
      throw ProtocolError(nghttp2_strerror(static_cast<int>(size)));
    }
    if (size == 0) {
      break;
    }
    collected.append(reinterpret_cast<const char*>(data), static_cast<size_t>(size));
  }
  return py::bytes(collected);
}

void Session::send(int32_t id, const py::sequence& parts, bool compressed, std::string_view encoding) {
  Call* call = find(id);
  if (call == nullptr || call->closing) {
    return;
  }
  std::vector<Lent> lent;
  size_t size = 0;
  size_t copied = sizeof call->prefix;
  for (const auto part : parts) {
    const size_t bytes = lent.emplace_back(part).bytes().size();
    size += bytes;
    copied += bytes <= kCopied ? bytes : 0;
  }
  std::string own;
  own.reserve(copied);
  own.push_back(compressed ? 1 : 0);
  for (int shift = 24; shift >= 0; shift -= 8) {
    own.push_back(static_cast<char>(size >> shift & 0xff));
  }
  std::vector<Outgoing> waiting;
  for (auto& part : lent) {
    if (part.bytes().size() <= kCopied) {
      own.append(part.bytes());
      continue;
    }
    if (!own.empty()) {
      waiting.emplace_back(std::exchange(own, {}));
    }
    waiting.emplace_back(std::move(part));
  }
  if (!own.empty()) {
    waiting.emplace_back(std::move(own));
  }
  for (auto& each : waiting) {
    const size_t bytes = bytes_of(each).size();
    call->outgoing.push_back(std::move(each));
    unsent_ += bytes;
  }
  if (call->opened) {
    nghttp2_session_resume_data(session_.get(), id);
  } else {
    open(id, *call, encoding);
  }
}

void Session::close(int32_t id, std::string_view status, std::string_view details, std::string_view http) {
  Call* call = find(id);
  if (call == nullptr || call->closing) {
    return;
  }
  call->closing = true;
  call->ignored = true;
  forget_message(*call);
  call->status = status;
  call->details = details;
  if (call->opened) {
    nghttp2_session_resume_data(session_.get(), id);
    return;
  }
  // Trailers only: the answer is one block of headers.
  const nghttp2_nv fields[] = {
      field(":status", http), field("content-type", "application/grpc"), field("grpc-accept-encoding", encodings_),
      field("grpc-status", call->status), field("grpc-message", call->details)};
  nghttp2_submit_response2(session_.get(), id, fields, call->details.empty() ? 4 : 5, nullptr);
}

void Session::answer(int32_t id, const py::sequence& parts) {
  send(id, parts, false, "");
  close(id, "0", "", "200");
}

size_t Session::received(int32_t id) {
  const Call* call = find(id);
  return call == nullptr ? 0 : call->received;
}

void Session::go_away(bool at_once) {
  if (at_once) {
    nghttp2_submit_goaway(
        session_.get(), NGHTTP2_FLAG_NONE, nghttp2_session_get_last_proc_stream_id(session_.get()), NGHTTP2_NO_ERROR,
        nullptr, 0);
  } else {
    nghttp2_submit_shutdown_notice(session_.get());
  }
}

Call* Session::find(int32_t id) {
  const auto found = calls_.find(id);
  return found == calls_.end() ? nullptr : &found->second;
}

void Session::open(int32_t id, Call& call, std::string_view encoding) {
  call.opened = true;
  const nghttp2_nv fields[] = {
      field(":status", "200"), field("content-type", "application/grpc"), field("grpc-accept-encoding", encodings_),
      field("grpc-encoding", encoding)};
  nghttp2_data_provider2 provider{};
  provider.read_callback = read;
  nghttp2_submit_response2(session_.get(), id, fields, encoding.empty() ? 3 : 4, &provider);
}

int Session::on_begin_headers(nghttp2_session*, const nghttp2_frame* frame, void* self) {
  if (frame->headers.cat != NGHTTP2_HCAT_REQUEST) {
    return 0;
  }
  return guarded([&] { of(self)->calls_.try_emplace(frame->hd.stream_id); });
}

int Session::on_header(
    nghttp2_session*, const nghttp2_frame* frame, const uint8_t* raw_name, size_t name_size, const uint8_t* raw_value,
    size_t value_size, uint8_t, void* self) {
  Call* call = of(self)->find(frame->hd.stream_id);
  if (call == nullptr) {
    return 0;
  }
  call->header_bytes += name_size + value_size;
  if (call->header_bytes > of(self)->limits_.headers) {
    return 0;
  }
  const std::string_view name(reinterpret_cast<const char*>(raw_name), name_size);
  const std::string_view value(reinterpret_cast<const char*>(raw_value), value_size);
  return guarded([&] {
    if (name == ":path") {
      call->path = value;
    } else if (name == ":method") {
      call->method = value;
    } else if (name == "content-type") {
      call->content_type = value;
    } else if (name == "grpc-timeout") {
      call->timeout = value;
    } else if (name == "grpc-encoding") {
      call->encoding = value;
    }
  });
}

int Session::on_frame(nghttp2_session*, const nghttp2_frame* frame, void* self) {
  Session& session = *of(self);
  const auto id = frame->hd.stream_id;
  Call* call = session.find(id);
  if (call == nullptr || (frame->hd.type != NGHTTP2_HEADERS && frame->hd.type != NGHTTP2_DATA)) {
    return 0;
  }
  return guarded([&] {
    if (frame->hd.type == NGHTTP2_HEADERS && frame->headers.cat == NGHTTP2_HCAT_REQUEST) {
      if (call->header_bytes > session.limits_.headers) {
        const auto most = std::to_string(session.limits_.headers);
        session.close(id, "8", "The metadata of a call: at most " + most + " bytes are taken.", "200");
        return;
      }
      session.events_.append(py::make_tuple(
          static_cast<int>(kOpened), id, py::bytes(call->path), py::bytes(call->method), py::bytes(call->content_type),
          py::bytes(call->timeout), py::bytes(call->encoding)));
    }
    if ((frame->hd.flags & NGHTTP2_FLAG_END_STREAM) != 0 && !call->ignored) {
      const bool whole = call->prefix_size == 0;
      session.events_.append(py::make_tuple(static_cast<int>(kEnded), id, whole));
    }
  });
}

int Session::on_data(nghttp2_session*, uint8_t, int32_t id, const uint8_t* data, size_t size, void* self) {
  Call* call = of(self)->find(id);
  return call == nullptr ? 0 : guarded([&] { of(self)->take(id, *call, data, size); });
}

void Session::take(int32_t id, Call& call, const uint8_t* data, size_t size) {
  while (size > 0 && !call.ignored) {
    if (call.prefix_size < sizeof call.prefix) {
      call.prefix[call.prefix_size++] = *data++;
      --size;
      if (call.prefix_size < sizeof call.prefix || !begin_message(id, call)) {
        continue;
      }
    }
    const size_t part = std::min(size, call.message_size - call.received);
    make_room(call, call.received + part);
    std::memcpy(PyBytes_AS_STRING(call.message.ptr()) + call.received, data, part);
    call.received += part;
    held_ += part;
    data += part;
    size -= part;
    if (call.received == call.message_size) {
      events_.append(
          py::make_tuple(static_cast<int>(kMessage), id, std::move(call.message), static_cast<int>(call.prefix[0])));
      forget_message(call);
    }
  }
}

// Begins the message that a whole prefix announces; false where that is refused.
bool Session::begin_message(int32_t id, Call& call) {
  size_t announced = 0;
  for (int index = 1; index < 5; ++index) {
    announced = announced << 8 | call.prefix[index];
  }
  if (announced > limits_.message || unfinished_ + announced > limits_.messages) {
    call.ignored = true;
    events_.append(py::make_tuple(static_cast<int>(kTooLarge), id, announced));
    return false;
  }
  call.message_size = announced;
  make_room(call, 0);
  unfinished_ += announced;
  return true;
}

// Memory follows what has come, not what was announced.
void Session::make_room(Call& call, size_t needed) {
  const size_t room = call.message ? static_cast<size_t>(PyBytes_GET_SIZE(call.message.ptr())) : 0;
  if (call.message && needed <= room) {
    return;
  }
  const auto size = static_cast<Py_ssize_t>(std::min(call.message_size, std::max({needed, 2 * room, kFirstRoom})));
  PyObject* raw = call.message.release().ptr();
  if (raw == nullptr) {
    raw = PyBytes_FromStringAndSize(nullptr, size);
  } else {
    _PyBytes_Resize(&raw, size);
  }
  if (raw == nullptr) {
    throw py::error_already_set();
  }
  call.message = py::reinterpret_steal<py::object>(raw);
}

void Session::forget_message(Call& call) {
  unfinished_ -= call.message_size;
  held_ -= call.received;
  call.message = py::object();
  call.message_size = call.received = call.prefix_size = 0;
}

int Session::on_frame_sent(nghttp2_session* session, const nghttp2_frame* frame, void*) {
  // An answer that ends before its request frees the stream: whatever else the client sends is not wanted.
  const auto id = frame->hd.stream_id;
  const bool last = frame->hd.type == NGHTTP2_HEADERS && (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) != 0;
  if (last && nghttp2_session_get_stream_remote_close(session, id) == 0) {
    nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, id, NGHTTP2_NO_ERROR);
  }
  return 0;
}

int Session::on_stream_close(nghttp2_session*, int32_t id, uint32_t, void* self) {
  Session& session = *of(self);
  Call* call = session.find(id);
  if (call == nullptr) {
    return 0;
  }
  session.forget_message(*call);
  for (const auto& part : call->outgoing) {
    session.unsent_ -= bytes_of(part).size();
  }
  session.unsent_ += call->sent;
  session.calls_.erase(id);
  return guarded([&] { session.events_.append(py::make_tuple(static_cast<int>(kClosed), id)); });
}

nghttp2_ssize Session::read(
    nghttp2_session* session, int32_t id, uint8_t* out, size_t size, uint32_t* flags, nghttp2_data_source*,
    void* self) {
  Call* call = of(self)->find(id);
  if (call == nullptr) {
    return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
  }
  size_t written = 0;
  while (written < size && !call->outgoing.empty()) {
    const std::string_view front = bytes_of(call->outgoing.front());
    const size_t part = std::min(size - written, front.size() - call->sent);
    std::memcpy(out + written, front.data() + call->sent, part);
    written += part;
    call->sent += part;
    of(self)->unsent_ -= part;
    if (call->sent == front.size()) {
      call->outgoing.pop_front();
      call->sent = 0;
    }
  }
  if (call->outgoing.empty() && call->closing) {
    *flags |= NGHTTP2_DATA_FLAG_EOF | NGHTTP2_DATA_FLAG_NO_END_STREAM;
    const nghttp2_nv fields[] = {field("grpc-status", call->status), field("grpc-message", call->details)};
    nghttp2_submit_trailer(session, id, fields, call->details.empty() ? 1 : 2);
  } else if (written == 0) {
    return NGHTTP2_ERR_DEFERRED;
  }
  return static_cast<nghttp2_ssize>(written);
}

}  // namespace torchyard
