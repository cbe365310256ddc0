-- What load.py has wrk do: send its requests, each with its number, and print what became of them.
-- Arguments: the file with the requests, and the number of the first.

local ffi = require("ffi")
ffi.cdef("void *malloc(size_t);")

-- In the thread that sends. Globals are what done() can read.

-- Kept outside Lua's heap: the less there is on it, the shorter its collector's pauses, which would
-- count as the service's latency.
local data -- all pieces of all requests, one after the other
local piece_ends -- piece p is data from piece_ends[p] up to piece_ends[p + 1]
local request_ends -- request r is the pieces from request_ends[r] up to request_ends[r + 1]
local requests

local function outside(type, count)
   return ffi.cast(type .. "*", ffi.C.malloc(count * ffi.sizeof(type)))
end

function init(arguments)
   local file = assert(io.open(arguments[1], "rb"))
   requests = file:read("*n")
   local pieces, bytes = file:read("*n"), file:read("*n")
   request_ends = outside("uint32_t", requests + 1)
   piece_ends = outside("uint32_t", pieces + 1)
   data = outside("char", bytes)
   local p = 0
   request_ends[0], piece_ends[0] = 0, 0
   for r = 1, requests do
      for _ = 1, file:read("*n") do
         p = p + 1
         piece_ends[p] = piece_ends[p - 1] + file:read("*n")
      end
      request_ends[r] = p
   end
   file:read(1)
   ffi.copy(data, file:read("*a"), bytes)
   file:close()
   collectgarbage()
   first = tonumber(arguments[2])
   number = first - 1 -- wrk asks for a request to look at, which it never sends
   cpu_s_before = os.clock()
end

function request()
   local r = number % requests
   local pieces = {}
   for p = request_ends[r], request_ends[r + 1] - 1 do
      pieces[#pieces + 1] = ffi.string(data + piece_ends[p], piece_ends[p + 1] - piece_ends[p])
   end
   local whole = table.concat(pieces, string.format("%09d", number))
   number = number + 1
   return whole
end

-- In the main thread.

local thread

function setup(one)
   thread = one
end

function done(summary, latency)
   local cpu_s = os.clock() - thread:get("cpu_s_before")
   local errors = summary.errors
   local figures = {
      responses = summary.requests,
      sent = thread:get("number") - thread:get("first"),
      seconds = summary.duration / 1e6,
      p50_ms = latency:percentile(50) / 1e3,
      p99_ms = latency:percentile(99) / 1e3,
      max_ms = latency.max / 1e3,
      cpu_s = cpu_s,
      next_number = thread:get("number"),
      refused = errors.status,
      unconnected = errors.connect,
      broken = errors.read + errors.write,
      late = errors.timeout,
   }
   local members = {}
   for name, figure in pairs(figures) do
      members[#members + 1] = string.format('"%s":%.15g', name, figure)
   end
   print("{" .. table.concat(members, ",") .. "}")
end
