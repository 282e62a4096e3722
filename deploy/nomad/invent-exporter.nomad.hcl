# A job for Nomad with Docker: nomad job run invent-exporter.nomad.hcl
#
# The key is a variable of Nomad's own: nomad var put nomad/jobs/invent-exporter api_key=@FILE
# The ledger is on a host volume, which the client's configuration names:
#   host_volume "invent-ledger" { path = "/srv/invent-ledger" }   (its owner is user 65532)
variable "version" {
  type        = string
  description = "The release to run, such as 0.1.0."
}

job "invent-exporter" {
  type = "service"

  group "exporter" {
    # One process owns the ledger.
    count = 1

    # The old one has to let go of the ledger before the new one opens it.
    update {
      max_parallel = 1
      canary       = 0
    }

    volume "ledger" {
      type   = "host"
      source = "invent-ledger"
    }

    network {
      port "metrics" {
        to = 10480
      }
    }

    service {
      name     = "invent-exporter"
      port     = "metrics"
      provider = "nomad"

      check {
        type     = "http"
        path     = "/-/healthy"
        interval = "20s"
        timeout  = "5s"
      }
    }

    task "exporter" {
      driver       = "docker"
      user         = "65532:65532"
      kill_timeout = "15s"

      config {
        image           = "ghcr.io/invent-exporter/invent-exporter:${var.version}"
        args            = ["serve", "--config.file=/local/config.yaml"]
        ports           = ["metrics"]
        readonly_rootfs = true
        cap_drop        = ["all"]
        security_opt    = ["no-new-privileges"]

        # SQLite sorts large results in a temporary file.
        mount {
          type   = "tmpfs"
          target = "/tmp"
        }
      }

      volume_mount {
        volume      = "ledger"
        destination = "/data"
      }

      template {
        destination = "local/config.yaml"
        change_mode = "restart"
        data        = <<-YAML
          api:
            key_file: /secrets/api-key
          state:
            url: sqlite:////data/invent-exporter.db
          poll_interval: 30s
        YAML
      }

      # Read again by the exporter when it changes.
      template {
        destination = "secrets/api-key"
        change_mode = "noop"
        perms       = "0400"
        uid         = 65532
        gid         = 65532
        data        = "{{ with nomadVar \"nomad/jobs/invent-exporter\" }}{{ .api_key }}{{ end }}"
      }

      resources {
        cpu    = 100
        memory = 256
      }
    }
  }
}
